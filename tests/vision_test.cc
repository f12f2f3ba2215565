// `m3 vision`: pictures and clips in, a safetensors file out.
#include <gtest/gtest.h>

#include <filesystem>

#include "checkpoint/safetensors.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"

namespace m3 {
namespace {

const std::string kModel = M3_SOURCE_DIR "/tests/data/models/nano";
const std::string kMedia = M3_SOURCE_DIR "/tests/data/media/";

template <typename T>
std::vector<T> values_of(const SafetensorsFile& file, const char* name) {
  const TensorInfo* info = file.find(name);
  EXPECT_NE(info, nullptr) << name;
  if (info == nullptr) return {};
  const Tensor tensor = file.tensor(*info);
  return {tensor.as<T>(), tensor.as<T>() + tensor.elements()};
}

TEST(Vision, SeveralPicturesMakeOneFile) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/rows.safetensors";
  const Outcome outcome = run_m3("vision " + kModel + " --image " + kMedia + "smooth.png --image " +
                                 kMedia + "turned.jpg --rows-only --out " + out);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const auto file = SafetensorsFile::open(out);
  ASSERT_TRUE(file) << file.error().message;
  // 12 x 8 becomes 84 x 56 and 8 x 12 becomes 56 x 84.
  EXPECT_EQ(values_of<std::int64_t>(**file, "grid_thw"),
            (std::vector<std::int64_t>{1, 4, 6, 1, 6, 4}));
  EXPECT_EQ((*file)->find("pixel_values")->shape, (std::vector<std::int64_t>{48, 1176}));
  EXPECT_EQ((*file)->find("kept"), nullptr);
}

TEST(Vision, AClipTellsItsFrames) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/rows.safetensors";
  const Outcome outcome = run_m3("vision " + kModel + " --video " + kMedia +
                                 "clip.mkv --fps 2 --rows-only --out " + out);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const auto file = SafetensorsFile::open(out);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(values_of<std::int32_t>(**file, "kept"), (std::vector<std::int32_t>{0, 3, 6, 9}));
  EXPECT_EQ(values_of<std::int64_t>(**file, "grid_thw"), (std::vector<std::int64_t>{2, 4, 6}));
}

TEST(Vision, MistakesAreSentences) {
  const TemporaryDirectory work;
  const std::string out = " --rows-only --out " + work.path() + "/out";
  const auto refused = [&](const std::string& arguments, const std::string& word) {
    const Outcome outcome = run_m3("vision " + arguments + out);
    EXPECT_TRUE(outcome.status == 1 || outcome.status == 2) << arguments << outcome.err;
    EXPECT_NE(outcome.err.find(word), std::string::npos) << word << " in: " << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(work.path() + "/out"));
  };
  const std::string picture = kMedia + "smooth.png", clip = kMedia + "clip.mkv";
  refused(kModel, "--image");
  refused(kModel + " --image " + picture + " --video " + clip, "--image");
  refused(kModel + " --image " + picture + " --fps 2", "--video");
  refused(kModel + " --image /nowhere.png", "/nowhere.png");
  refused(kModel + " --image " + work.write("empty.png", ""), "empty.png");
  refused(kModel + " --image " + clip, "PNG, JPEG, WebP or GIF");
  refused(kModel + " --video " + picture, "MKV");
  refused(kModel + " --video " + clip + " --fps 0", "frames per second");
  refused(M3_SOURCE_DIR "/tests/data/models/flat --image " + picture, "vision_config");
  refused(work.path() + " --image " + picture, "config.json");
}

}  // namespace
}  // namespace m3
