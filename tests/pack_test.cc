// Packed weights, from the backend that wants them to the file beside the model and back.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "backend/registry.h"
#include "base/file.h"
#include "model/packed_weights.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;

// A model in a directory of its own, and what loads it.
struct Packing {
  TemporaryDirectory work;
  std::string directory = work.path() + "/model";
  ThreadPool pool{2};
  std::unique_ptr<Backend> backend;

  explicit Packing(const std::string& name = "nano-mxfp8", const std::string& isa = "avx2",
                   const std::string& kind = "cpu") {
    fs::copy(tiny_model_directory(name), directory);
    auto made = make_backend(kind, isa, pool);
    M3_CHECK(made.has_value(), "{}", made.error().message);
    backend = std::move(*made);
  }

  std::string path() const { return directory + "/m3-panels-64x2.pack"; }
  std::string bytes() const { return read_text_file(path()).value_or(""); }

  std::shared_ptr<const Checkpoint> checkpoint() const {
    auto opened = Checkpoint::open(directory);
    M3_CHECK(opened.has_value(), "{}", opened.error().message);
    return *opened;
  }
  Config config() const {
    auto config = load_config(directory);
    M3_CHECK(config.has_value(), "{}", config.error().message);
    return *config;
  }
  LoadOptions options() { return {.backend = backend.get()}; }
  Result<Weights> load() { return load_weights(config(), checkpoint(), {}, &pool, options()); }
  Result<PackReport> update() { return update_pack(config(), checkpoint(), {}, &pool, options()); }
  void must_update() {
    const auto report = update();
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_TRUE(report->written);
  }

  void flip(std::int64_t at) const {
    std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const int byte = file.get();
    file.seekp(at);
    file.put(static_cast<char>(byte ^ 1));
  }
};

// Expects that the file is used, after one warning with these words, and is then as it was.
void expect_rewritten(Packing& p, const std::string& before,
                      const std::vector<std::string>& words) {
  const auto weights = p.load();
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_NE(weights->pack, nullptr);
  ASSERT_EQ(weights->warnings.size(), 1u);
  for (const std::string& word : words)
    EXPECT_NE(weights->warnings[0].find(word), std::string::npos) << weights->warnings[0];
  if (!before.empty()) {
    EXPECT_TRUE(p.bytes() == before);
  }
  const auto again = p.load();
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_TRUE(again->warnings.empty());
}

TEST(Pack, MappedBytesAreThoseOfMemory) {
  for (const Platform& platform : platforms()) {
    if (platform.backend != "cpu") continue;
    SCOPED_TRACE(platform.name());
    Packing p("nano-mxfp8", platform.isa);
    Weights stored, mapped;
    Linears in_memory, in_file;
    const auto checkpoint = p.checkpoint();
    ASSERT_TRUE(load_stored(p.config(), checkpoint, {}, &p.pool, {}, stored, in_memory));
    ASSERT_TRUE(load_stored(p.config(), checkpoint, {}, &p.pool, {}, mapped, in_file));
    const auto report = p.update();
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_EQ(report->written, fs::exists(p.path()));
    if (!report->written) continue;  // this instruction set reads MXFP8 as it is stored
    const auto buffer = pack_in_memory(*p.backend, in_memory.own, *checkpoint, {});
    const auto file = map_pack(*p.backend, in_file.own, *checkpoint, &p.pool, {});
    ASSERT_TRUE(buffer && file);
    ASSERT_EQ(in_memory.own.size(), in_file.own.size());
    std::int64_t compared = 0;
    for (std::size_t i = 0; i < in_file.own.size(); ++i) {
      const Matrix &a = *in_memory.own[i].matrix, &b = *in_file.own[i].matrix;
      const std::int64_t bytes = p.backend->packed_bytes(a);
      ASSERT_EQ(a.packed == nullptr, bytes == 0);
      ASSERT_EQ(b.packed == nullptr, bytes == 0);
      if (bytes == 0) continue;
      EXPECT_EQ(std::memcmp(a.packed, b.packed, static_cast<std::size_t>(bytes)), 0)
          << in_file.own[i].name;
      compared += bytes;
    }
    EXPECT_GT(compared, 0);
  }
}

TEST(Pack, WithoutAFileWeightsArePackedInMemory) {
  Packing p;
  const auto weights = p.load();
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_EQ(weights->pack, nullptr);
  EXPECT_TRUE(weights->warnings.empty());
  EXPECT_GT(weights->packing_seconds, 0);
  EXPECT_FALSE(fs::exists(p.path()));
}

TEST(Pack, ASecondTimeFindsItUpToDate) {
  Packing p;
  p.must_update();
  const auto report = p.update();
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_FALSE(report->written);
  EXPECT_EQ(report->path, p.path());
  EXPECT_GT(report->bytes, 0);
  const auto weights = p.load();
  ASSERT_TRUE(weights);
  EXPECT_NE(weights->pack, nullptr);
  EXPECT_EQ(weights->packing_seconds, 0);
}

TEST(Pack, NothingToPackWritesNothing) {
  Packing p("nano", "", "reference");
  const auto report = p.update();
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->path, "");
  EXPECT_FALSE(fs::exists(p.path()));
}

TEST(Pack, AnotherTimeOfModificationMakesItStale) {
  Packing p;
  p.must_update();
  for (const auto& entry : fs::directory_iterator(p.directory))
    if (entry.path().extension() == ".safetensors")
      fs::last_write_time(entry, fs::last_write_time(entry) + std::chrono::nanoseconds(1));
  expect_rewritten(p, "", {p.path(), "stale", ".safetensors"});
}

// As in copies of directories that give all files one time.
TEST(Pack, OtherNumbersOfTheSameSizeAndTimeMakeItStale) {
  Packing p;
  p.must_update();
  for (const auto& entry : fs::directory_iterator(p.directory)) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto time = fs::last_write_time(entry);
    std::string bytes = *read_text_file(entry.path().string());
    for (std::size_t i = bytes.size() / 2; i < bytes.size(); ++i)
      bytes[i] = static_cast<char>(bytes[i] ^ 1);
    std::ofstream(entry.path(), std::ios::binary) << bytes;
    fs::last_write_time(entry, time);
  }
  const auto weights = p.load();
  ASSERT_TRUE(weights) << weights.error().message;
  ASSERT_EQ(weights->warnings.size(), 1u);
  EXPECT_NE(weights->warnings[0].find("other numbers"), std::string::npos) << weights->warnings[0];
}

TEST(Pack, AnotherSizeOrAnotherFileMakesItStale) {
  Packing p;
  const auto checkpoint = p.checkpoint();
  std::vector<PackSource> sources = pack_sources(*checkpoint);
  Weights weights;
  Linears linears;
  ASSERT_TRUE(load_stored(p.config(), checkpoint, {}, &p.pool, {}, weights, linears));
  const auto expect_stale = [&](const std::vector<PackSource>& then, const std::string& word) {
    auto writer = PackWriter::create(p.path(), "panels-64x2", then);
    ASSERT_TRUE(writer && writer->finish());
    const auto pack = map_pack(*p.backend, linears.own, *checkpoint, &p.pool, {});
    ASSERT_FALSE(pack);
    EXPECT_NE(pack.error().message.find(word), std::string::npos) << pack.error().message;
  };
  expect_stale(sources, "lacks");
  auto other = sources;
  other[0].bytes += 1;
  expect_stale(other, "bytes");
  other = sources;
  other[0].name = "x.safetensors";
  expect_stale(other, sources[0].name);
  other = sources;
  other.push_back({"x.safetensors", 1, 1});
  expect_stale(other, "files");
}

TEST(Pack, DamageIsFoundAndMended) {
  Packing p;
  p.must_update();
  const std::string before = p.bytes();
  const std::int64_t size = std::ssize(before);
  for (const std::int64_t at : {std::int64_t{0}, kPackDataBegin / 2, kPackDataBegin,
                                (kPackDataBegin + size) / 2, size - 100, size - 1}) {
    p.flip(at);
    expect_rewritten(p, before, {p.path(), "damaged"});
  }
  fs::resize_file(p.path(), static_cast<std::uintmax_t>(size / 2));
  expect_rewritten(p, before, {p.path()});
}

TEST(Pack, WhatTheTableSaysMustBeWhatIsAskedFor) {
  Packing p;
  const auto checkpoint = p.checkpoint();
  Weights weights;
  Linears linears;
  ASSERT_TRUE(load_stored(p.config(), checkpoint, {}, &p.pool, {}, weights, linears));
  const auto first = std::find_if(linears.own.begin(), linears.own.end(), [&](const auto& w) {
    return p.backend->packed_bytes(*w.matrix) > 0;
  });
  ASSERT_NE(first, linears.own.end());
  const Matrix& matrix = *first->matrix;
  const PackedTensor right{.name = first->name,
                           .format = std::string(matrix.codec->name),
                           .rows = matrix.rows,
                           .cols = matrix.cols,
                           .bytes = p.backend->packed_bytes(matrix)};
  std::vector<PackedTensor> wrong(4, right);
  wrong[0].format = "int8";
  wrong[1].rows += 1;
  wrong[2].cols += 1;
  wrong[3].bytes -= 1;
  for (const PackedTensor& tensor : wrong) {
    auto writer = PackWriter::create(p.path(), "panels-64x2", pack_sources(*checkpoint));
    ASSERT_TRUE(writer);
    const std::vector<std::byte> pages(static_cast<std::size_t>(pack_pages(tensor.bytes)));
    ASSERT_TRUE(writer->add(tensor, pages) && writer->finish());
    const auto pack = map_pack(*p.backend, {*first}, *checkpoint, &p.pool, {});
    ASSERT_FALSE(pack);
    EXPECT_NE(pack.error().message.find("expected"), std::string::npos) << pack.error().message;
    EXPECT_EQ(matrix.packed, nullptr);
  }
}

TEST(Pack, WhereItCannotBeWrittenMemoryServes) {
  Packing p;
  fs::create_directory(p.path());
  const auto weights = p.load();
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_EQ(weights->pack, nullptr);
  EXPECT_GT(weights->packing_seconds, 0);
  ASSERT_EQ(weights->warnings.size(), 1u);
  EXPECT_NE(weights->warnings[0].find("in memory"), std::string::npos) << weights->warnings[0];
  EXPECT_FALSE(p.update());
}

}  // namespace
}  // namespace m3
