#include "checkpoint/checkpoint.h"

#include "checkpoint/test_support.h"

namespace m3 {
namespace {

constexpr const char* kIndex = "model.safetensors.index.json";

// A file that holds one byte under each name.
void write_file(const TestDirectory& directory, std::string_view file,
                std::initializer_list<const char*> names) {
  std::uint8_t byte = 1;
  std::vector<NamedTensor> tensors;
  for (const char* name : names) tensors.push_back({name, Tensor(&byte, DType::kU8, {1})});
  const Status written = write_safetensors(directory / file, tensors);
  ASSERT_TRUE(written) << written.error().message;
}

TEST(Checkpoint, UnitesTheFilesOfADirectory) {
  const TestDirectory directory;
  write_file(directory, "model-00002.safetensors", {"c"});
  write_file(directory, "model-00001.safetensors", {"a", "b"});
  directory.write("config.json", "{}");
  const auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ((*checkpoint)->files().size(), 2u);
  EXPECT_EQ((*checkpoint)->tensors().size(), 3u);
  ASSERT_NE((*checkpoint)->find("c"), nullptr);
  EXPECT_EQ((*checkpoint)->find("c")->tensor().as<std::uint8_t>()[0], 1);
  EXPECT_EQ((*checkpoint)->find("d"), nullptr);
  EXPECT_TRUE((*checkpoint)->warnings().empty());
  EXPECT_TRUE((*checkpoint)->synthetic().empty());
}

TEST(Checkpoint, RefusesWhatIsNoCheckpoint) {
  const TestDirectory directory;
  expect_error(Checkpoint::open(directory / "absent"), {"no directory", "absent"});
  expect_error(Checkpoint::open(directory.write("file", "")), {"no directory"});
  const TestDirectory empty;
  expect_error(Checkpoint::open(empty.path()), {empty.path(), "*.safetensors"});
  directory.write("model.safetensors", "x");
  expect_error(Checkpoint::open(directory.path()), {"model.safetensors", "too few"});
}

TEST(Checkpoint, RefusesANameInTwoFiles) {
  const TestDirectory directory;
  write_file(directory, "one.safetensors", {"a"});
  write_file(directory, "two.safetensors", {"a"});
  expect_error(Checkpoint::open(directory.path()), {"a", "one.safetensors", "two.safetensors"});
}

TEST(Checkpoint, TheIndexIsAHint) {
  const TestDirectory directory;
  write_file(directory, "one.safetensors", {"a", "b"});
  directory.write(kIndex, R"({"weight_map": {"a": "elsewhere.safetensors"}})");
  const auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  ASSERT_EQ((*checkpoint)->warnings().size(), 1u);
  EXPECT_NE((*checkpoint)->warnings()[0].find("b"), std::string::npos);
}

TEST(Checkpoint, AnIndexThatPromisesMoreIsAnError) {
  const TestDirectory directory;
  write_file(directory, "one.safetensors", {"a"});
  directory.write(kIndex, R"({"weight_map": {"a": "one.safetensors", "lost": "two"}})");
  expect_error(Checkpoint::open(directory.path()), {"lost", "shard is missing"});
}

TEST(Checkpoint, ABrokenIndexIsAWarning) {
  for (const char* text : {"", "{", "[]", "{}", R"({"weight_map": 3})"}) {
    const TestDirectory directory;
    write_file(directory, "one.safetensors", {"a"});
    directory.write(kIndex, text);
    const auto checkpoint = Checkpoint::open(directory.path());
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    EXPECT_EQ((*checkpoint)->warnings().size(), 1u) << text;
  }
}

}  // namespace
}  // namespace m3
