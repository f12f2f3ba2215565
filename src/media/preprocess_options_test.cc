#include "media/preprocess_options.h"

#include <filesystem>

#include "media/test_support.h"

namespace m3 {
namespace {

// The options of a directory whose files hold these texts; an empty text is no file.
Result<PreprocessOptions> read(const std::string& image, const std::string& video = "") {
  const std::string directory = testing::TempDir() + "m3-preprocess";
  std::filesystem::remove_all(directory);
  M3_TRY_STATUS(make_directories(directory));
  for (const auto& [name, text] : {std::pair{"/preprocessor_config.json", image},
                                   {"/video_preprocessor_config.json", video}}) {
    if (text.empty()) continue;
    M3_TRY(FileWriter file, FileWriter::create(directory + name));
    M3_TRY_STATUS(file.write(text));
    M3_TRY_STATUS(file.commit());
  }
  PreprocessOptions options;
  M3_TRY_STATUS(read_preprocess_options(directory, options));
  return options;
}

TEST(PreprocessOptions, DefaultsStandWhereNothingIsSaid) {
  for (const char* text : {"", "{}", R"({"max_pixels": null, "size": {"height": 672}})"}) {
    const auto options = read(text);
    ASSERT_TRUE(options) << options.error().message;
    EXPECT_EQ(options->image_pixels_max, 451'584);
    EXPECT_EQ(options->video_pixels_max, 602'112);
    EXPECT_FLOAT_EQ(options->std[2], 0.27577711f);
  }
}

TEST(PreprocessOptions, SizesOfPicturesFramesAndACap) {
  PreprocessOptions options;
  EXPECT_EQ(options.image_size({1920, 1080}), (Size{896, 504}));
  EXPECT_EQ(options.frame_size({1920, 1080}), (Size{1008, 560}));
  options.long_side_max = 504;
  EXPECT_EQ(options.image_size({5000, 3000}), (Size{504, 308}));
  EXPECT_EQ(options.frame_size({5000, 3000}), (Size{504, 308}));
}

TEST(PreprocessOptions, AreRead) {
  const auto options = read(
      R"({"min_pixels": 784, "max_pixels": 1000000, "image_mean": [0, 0.5, 1], "image_std": [1, 1, 2]})",
      R"({"min_pixels": 1568, "max_pixels": 2000000})");
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->image_pixels_min, 784);
  EXPECT_EQ(options->image_pixels_max, 1'000'000);
  EXPECT_EQ(options->video_pixels_min, 1568);
  EXPECT_EQ(options->video_pixels_max, 2'000'000);
  EXPECT_EQ(options->mean, (std::array<float, 3>{0, 0.5f, 1}));
  EXPECT_EQ(options->std, (std::array<float, 3>{1, 1, 2}));
}

TEST(PreprocessOptions, NonsenseIsRefused) {
  for (const char* text :
       {"[", "[]", R"({"max_pixels": 0})", R"({"max_pixels": "many"})", R"({"max_pixels": 1e30})",
        R"({"min_pixels": 500000})", R"({"image_mean": [0, 0]})", R"({"image_std": [1, 1, 0]})",
        R"({"image_mean": 0.5})", R"({"image_mean": [0, 0, "0"]})"}) {
    const auto options = read(text);
    ASSERT_FALSE(options) << text;
    EXPECT_NE(options.error().message.find("preprocessor_config.json"), std::string::npos);
  }
}

}  // namespace
}  // namespace m3
