#include "base/file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace m3 {
namespace {

class Files : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "m3-file-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(directory_), {}));
  }
  std::string directory_;
};

TEST_F(Files, AWrittenFileAppearsWhole) {
  const std::string path = directory_ + "/a";
  auto file = FileWriter::create(path);
  ASSERT_TRUE(file);
  ASSERT_TRUE(file->write("hello "));
  ASSERT_TRUE(file->write("there"));
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(file->commit());
  EXPECT_EQ(*read_text_file(path), "hello there");
  const auto mapped = MappedFile::open(path);
  ASSERT_TRUE(mapped);
  EXPECT_EQ((*mapped)->bytes().size(), 11u);
  EXPECT_EQ((*mapped)->bytes()[4], std::byte{'o'});
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, AnAbandonedFileLeavesNothing) {
  {
    auto file = FileWriter::create(directory_ + "/a");
    ASSERT_TRUE(file && file->write("half"));
  }
  EXPECT_EQ(entries(), 0u);
}

TEST_F(Files, ErrorsNameThePath) {
  const auto named = [](const auto& result, const char* what) {
    ASSERT_FALSE(result);
    EXPECT_NE(result.error().message.find(what), std::string::npos) << result.error().message;
  };
  named(MappedFile::open(directory_ + "/none"), "/none");
  named(MappedFile::open(directory_), "regular");
  named(read_text_file(directory_ + "/none"), "/none");
  named(FileWriter::create(directory_ + "/none/file"), "/none/file");
  auto file = FileWriter::create(directory_ + "/big");
  ASSERT_TRUE(file && file->write("123456") && file->commit());
  named(read_text_file(directory_ + "/big", 5), "larger");
  EXPECT_EQ((*MappedFile::open(directory_ + "/big"))->bytes().size(), 6u);
}

TEST_F(Files, AnEmptyFileMapsToNothing) {
  auto file = FileWriter::create(directory_ + "/empty");
  ASSERT_TRUE(file && file->commit());
  EXPECT_TRUE((*MappedFile::open(directory_ + "/empty"))->bytes().empty());
}

}  // namespace
}  // namespace m3
