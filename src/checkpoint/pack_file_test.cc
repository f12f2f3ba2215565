#include "checkpoint/pack_file.h"

#include "checkpoint/test_support.h"

namespace m3 {
namespace {

const std::vector<PackSource> kSources = {{"a.safetensors", 1234, 1'700'000'000'123'456'789},
                                          {"b.safetensors", 0, -5}};

// Two tensors in three pages.
Result<std::string> write_two(const std::string& path) {
  M3_TRY(auto writer, PackWriter::create(path, "panels", kSources));
  std::vector<std::byte> pages(2 * kPackPage, std::byte{7});
  M3_TRY_STATUS(writer.add({.name = "one", .format = "mxfp8", .rows = 3, .cols = 40, .bytes = 4096},
                           std::span(pages).first(kPackPage)));
  pages[5000] = std::byte{9};
  M3_TRY_STATUS(
      writer.add({.name = "two", .format = "int8", .rows = 1, .cols = 2, .bytes = 5001}, pages));
  M3_TRY_STATUS(writer.finish());
  return read_text_file(path);
}

// What loading does: all or an error.
Status open_and_check(const std::string& path) {
  M3_TRY(const auto pack, PackFile::open(path));
  std::vector<const PackedTensor*> all;
  for (const PackedTensor& tensor : pack->table().tensors) all.push_back(&tensor);
  return pack->check(all, nullptr, {});
}

// Replaces one byte of a file in place.
void put(const std::string& path, std::int64_t at, char byte) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(at);
  file.put(byte);
}

PackTable small_table() {
  return {.layout = "panels",
          .sources = kSources,
          .tensors = {{"one", "mxfp8", 3, 40, kPackDataBegin, 4096, 11},
                      {"two", "int8", 1, 2, kPackDataBegin + 4096, 5001, 12}}};
}
constexpr std::int64_t kSmallEnd = kPackDataBegin + 3 * kPackPage;

Result<PackTable> parse(const std::string& bytes, std::int64_t data_end = kSmallEnd) {
  return parse_pack_table(std::as_bytes(std::span(bytes)), data_end, "x.pack");
}

TEST(PackFile, GivesBackWhatWasWritten) {
  const TestDirectory directory;
  const std::string path = directory / "x.pack";
  ASSERT_TRUE(write_two(path));
  const auto pack = PackFile::open(path);
  ASSERT_TRUE(pack) << pack.error().message;
  EXPECT_EQ((*pack)->table().layout, "panels");
  EXPECT_EQ((*pack)->table().sources, kSources);
  EXPECT_EQ((*pack)->find("three"), nullptr);
  const PackedTensor* two = (*pack)->find("two");
  ASSERT_NE(two, nullptr);
  EXPECT_EQ(two->format, "int8");
  EXPECT_EQ(two->offset, kPackDataBegin + 4096);
  EXPECT_EQ((*pack)->data(*two)[0], std::byte{7});
  EXPECT_EQ((*pack)->data(*two)[5000], std::byte{9});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>((*pack)->data(*two)) % kPackPage, 0u);
  ThreadPool pool(3);
  std::int64_t last = 0;
  const Progress progress = [&](std::int64_t done, std::int64_t total) {
    EXPECT_EQ(total, 3 * kPackPage);
    last = done;
  };
  const PackedTensor* both[] = {two, (*pack)->find("one")};
  EXPECT_TRUE((*pack)->check(both, &pool, progress));
  EXPECT_EQ(last, 3 * kPackPage);
}

TEST(PackFile, EveryDamagedByteIsFound) {
  const TestDirectory directory;
  const std::string path = directory / "x.pack";
  const auto bytes = write_two(path);
  ASSERT_TRUE(bytes && open_and_check(path));
  const std::int64_t size = std::ssize(*bytes), table = kPackDataBegin + 3 * kPackPage;
  for (std::int64_t at = 0; at < size; ++at) {
    if (at > 16 && at < kPackDataBegin - 2) at += 99'991;  // zeros of the head
    if (at >= kPackDataBegin && at < table) at += 97;      // data, padding included
    if (at >= size) break;
    const char byte = (*bytes)[static_cast<std::size_t>(at)];
    for (const int bit : {0, 7}) {
      put(path, at, static_cast<char>(byte ^ (1 << bit)));
      const Status status = open_and_check(path);
      ASSERT_FALSE(status) << "byte " << at;
      EXPECT_NE(status.error().message.find(path), std::string::npos) << status.error().message;
    }
    put(path, at, byte);
  }
  EXPECT_TRUE(open_and_check(path));
}

TEST(PackFile, ShorterAndLongerFilesAreFound) {
  const TestDirectory directory;
  const std::string path = directory / "x.pack";
  const auto bytes = write_two(path);
  ASSERT_TRUE(bytes);
  const std::int64_t size = std::ssize(*bytes);
  for (const std::int64_t left : {size - 1, size - 8, size - 31, size - 32, size - 33, size - 100,
                                  kSmallEnd, kSmallEnd - 4096, kPackDataBegin + 32, kPackDataBegin,
                                  std::int64_t{4096}, std::int64_t{8}, std::int64_t{0}}) {
    std::filesystem::resize_file(path, static_cast<std::uintmax_t>(left));
    EXPECT_FALSE(open_and_check(path)) << left;
  }
  std::filesystem::resize_file(path, static_cast<std::uintmax_t>(size + 4096));
  EXPECT_FALSE(open_and_check(path));
  directory.write("x.pack", *bytes + bytes->substr(bytes->size() - 32));
  EXPECT_FALSE(open_and_check(path));
  directory.write("x.pack", *bytes);
  EXPECT_TRUE(open_and_check(path));
  EXPECT_FALSE(PackFile::open(directory.path()));
}

TEST(PackTable, RoundTripsAndEndsWhereItEnds) {
  const std::string bytes = pack_table_bytes(small_table());
  const auto table = parse(bytes);
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_EQ(pack_table_bytes(*table), bytes);
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(parse(bytes.substr(0, size))) << size;
  expect_error(parse(bytes + '\0'), {"x.pack", "behind its last entry"});
  EXPECT_TRUE(parse(pack_table_bytes({.layout = "panels"}), kPackDataBegin));
}

TEST(PackTable, AnotherVersionIsNamed) {
  std::string bytes = pack_table_bytes(small_table());
  bytes[0] = static_cast<char>(kPackVersion + 1);
  expect_error(parse(bytes), {"x.pack", "version"});
}

// Every number of the table in turn, at the edges of what 64 bits hold.
TEST(PackTable, HostileNumbersAreRefused) {
  constexpr std::int64_t kHostile[] = {
      0, -1, INT64_MIN, INT64_MAX, INT64_MAX - 4095, 1, 4095, kSmallEnd, std::int64_t{1} << 62};
  for (const std::int64_t number : kHostile) {
    for (auto field :
         {&PackedTensor::rows, &PackedTensor::cols, &PackedTensor::bytes, &PackedTensor::offset}) {
      PackTable table = small_table();
      table.tensors[1].*field = number;
      const auto parsed = parse(pack_table_bytes(table));
      const bool shape = field == &PackedTensor::rows || field == &PackedTensor::cols;
      EXPECT_EQ(parsed.has_value(), shape && number > 0) << number;
    }
    EXPECT_FALSE(parse(pack_table_bytes(small_table()), number == kSmallEnd ? 0 : number));
    // The lengths of the layout, of the sources and of the tensors.
    for (const std::size_t at : {8u, 22u, 22u + 8 + 2 * 37 + 16}) {
      std::string bytes = pack_table_bytes(small_table());
      const auto before = static_cast<unsigned char>(bytes[at]);
      if (number == before) continue;
      std::memcpy(bytes.data() + at, &number, sizeof number);
      EXPECT_FALSE(parse(bytes)) << number << " at " << at;
    }
  }
}

TEST(PackTable, NamesOccurOnce) {
  PackTable table = small_table();
  table.tensors[1].name = "one";
  expect_error(parse(pack_table_bytes(table)), {"x.pack", "one"});
}

}  // namespace
}  // namespace m3
