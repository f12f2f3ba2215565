#include "media/resize.h"

#include "media/test_support.h"

namespace m3 {
namespace {

Size resized(std::int64_t width, std::int64_t height, const SizeRule& rule = {}) {
  const auto size = smart_resize({width, height}, rule);
  EXPECT_TRUE(size) << size.error().message;
  return size.value_or(Size{});
}

// The table of vision §3.2.
TEST(SmartResize, Pictures) {
  EXPECT_EQ(resized(640, 480), (Size{644, 476}));
  EXPECT_EQ(resized(1000, 50), (Size{1008, 56}));
  EXPECT_EQ(resized(2016, 2016), (Size{672, 672}));
  EXPECT_EQ(resized(672, 672), (Size{672, 672}));
  EXPECT_EQ(resized(500, 400), (Size{504, 392}));
  EXPECT_EQ(resized(1024, 768), (Size{756, 560}));
  EXPECT_EQ(resized(1920, 1080), (Size{896, 504}));
  EXPECT_EQ(resized(3000, 2000), (Size{812, 532}));
  EXPECT_EQ(resized(5000, 3000), (Size{840, 504}));
  EXPECT_EQ(resized(4000, 500), (Size{1876, 224}));
  EXPECT_EQ(resized(4000, 20), (Size{4004, 28}));
  EXPECT_EQ(resized(300, 80), (Size{308, 84}));
  EXPECT_EQ(resized(28, 28), (Size{56, 56}));
  EXPECT_EQ(resized(1, 1), (Size{56, 56}));
  EXPECT_EQ(resized(70, 42), (Size{56, 56}));
}

TEST(SmartResize, AThinSideIsOneMultipleBeforeTheAreaIsLookedAt) {
  EXPECT_EQ(resized(300, 13), (Size{308, 28}));
}

// Vision §4.2.
TEST(SmartResize, Frames) {
  const SizeRule frames{.pixels_max = 602'112};
  EXPECT_EQ(resized(1920, 1080, frames), (Size{1008, 560}));
  EXPECT_EQ(resized(640, 360, frames), (Size{644, 364}));
  EXPECT_EQ(resized(672, 896, frames), (Size{672, 896}));
}

TEST(SmartResize, WhatHasNoSize) {
  const auto thin = smart_resize({4001, 20}, {});
  ASSERT_FALSE(thin);
  EXPECT_EQ(thin.error().message,
            "4001 x 20 pixels are too thin: one side is 200.05 times the other, at most 200 is "
            "allowed");
  EXPECT_TRUE(smart_resize({4000, 20}, {}));
  EXPECT_FALSE(smart_resize({20, 4001}, {}));
  EXPECT_FALSE(smart_resize({0, 5}, {}));
  EXPECT_FALSE(smart_resize({5, 0}, {}));
  EXPECT_FALSE(smart_resize({1000, 10}, {.pixels_min = 784, .pixels_max = 784}));
}

// The table of vision §3.7.
TEST(LongSideResize, Examples) {
  const auto capped = [](std::int64_t width, std::int64_t height, std::int64_t cap) {
    return long_side_resize({width, height}, cap, 28).value_or(Size{});
  };
  EXPECT_EQ(capped(5000, 3000, 252), (Size{252, 140}));
  EXPECT_EQ(capped(5000, 3000, 504), (Size{504, 308}));
  EXPECT_EQ(capped(5000, 3000, 1008), (Size{1008, 616}));
  EXPECT_EQ(capped(3000, 2000, 2016), (Size{2016, 1344}));
  EXPECT_EQ(capped(5000, 3000, 2016), (Size{2016, 1204}));
  EXPECT_EQ(capped(2000, 1000, 2016), (Size{1988, 1008}));
  EXPECT_EQ(capped(4000, 500, 2016), (Size{2016, 252}));
  EXPECT_EQ(capped(400, 40, 2016), (Size{1120, 112}));
  EXPECT_EQ(capped(300, 80, 2016), (Size{420, 112}));
  EXPECT_EQ(capped(3584, 3584, 3584), (Size{3584, 3584}));
  EXPECT_FALSE(long_side_resize({3584, 3612}, 3612, 28));
  EXPECT_FALSE(long_side_resize({1, 2000}, 2016, 28));
  EXPECT_FALSE(long_side_resize({0, 10}, 2016, 28));
  EXPECT_FALSE(long_side_resize({10, 10}, 0, 28));
}

// What Pillow 13 makes of a few numbers.
TEST(ResizeBicubic, IsPillows) {
  const Image down{
      .width = 5, .height = 4, .rgb = {168, 229, 184, 171, 238, 171, 20,  206, 245, 153, 204, 5,
                                       37,  53,  213, 206, 192, 173, 6,   120, 63,  96,  236, 131,
                                       118, 4,   87,  161, 124, 71,  42,  73,  237, 16,  194, 250,
                                       10,  103, 206, 13,  143, 2,   38,  71,  133, 118, 36,  98,
                                       196, 35,  57,  146, 50,  179, 145, 104, 206, 53,  141, 33}};
  EXPECT_EQ(resize_bicubic(down, {3, 2}).rgb,
            (std::vector<std::uint8_t>{131, 197, 170, 67, 186, 140, 106, 92, 96, 92, 84, 158, 85,
                                       100, 158, 69, 108, 87}));
  const Image up{
      .width = 3,
      .height = 2,
      .rgb = {181, 39, 151, 11, 180, 138, 66, 0, 165, 98, 123, 12, 144, 184, 24, 38, 129, 1}};
  EXPECT_EQ(
      resize_bicubic(up, {5, 6}).rgb,
      (std::vector<std::uint8_t>{
          204, 19,  167, 119, 92,  158, 0,   180, 150, 35,  60,  170, 74,  0,   185, 194, 28,  152,
          119, 97,  145, 11,  180, 138, 39,  69,  155, 70,  0,   167, 164, 55,  110, 119, 112, 107,
          51,  181, 104, 50,  94,  112, 58,  37,  117, 125, 91,  53,  119, 132, 55,  104, 183, 58,
          66,  126, 53,  42,  88,  50,  95,  118, 11,  119, 147, 17,  144, 184, 24,  77,  151, 10,
          30,  125, 0,   85,  127, 0,   119, 152, 4,   158, 184, 12,  81,  160, 0,   26,  138, 0}));
  const Image line{
      .width = 7, .height = 1, .rgb = {85,  54, 228, 48, 127, 169, 1,   167, 109, 247, 16,
                                       192, 78, 220, 8,  60,  189, 181, 64,  72,  8}};
  EXPECT_EQ(resize_bicubic(line, {2, 3}).rgb,
            (std::vector<std::uint8_t>{79, 108, 164, 94, 143, 91, 79, 108, 164, 94, 143, 91, 79,
                                       108, 164, 94, 143, 91}));
}

TEST(ResizeBicubic, ColumnsGoFirstWhereManyRowsFallAway) {
  const Image tall{
      .width = 4,
      .height = 9,
      .rgb = {191, 138, 99,  67,  48,  68,  100, 249, 67,  40,  127, 45,  33,  51,  206, 229,
              217, 85,  53,  204, 120, 134, 31,  216, 14,  127, 160, 29,  208, 161, 116, 100,
              83,  151, 198, 160, 173, 193, 54,  126, 126, 57,  118, 170, 107, 131, 59,  173,
              52,  139, 181, 169, 63,  196, 144, 15,  138, 137, 135, 245, 15,  140, 59,  142,
              252, 140, 76,  231, 51,  218, 125, 69,  151, 117, 140, 92,  189, 209, 48,  225,
              71,  217, 216, 47,  124, 91,  112, 16,  45,  88,  184, 95,  72,  215, 222, 173,
              36,  146, 75,  31,  190, 30,  190, 222, 190, 75,  79,  87}};
  EXPECT_EQ(resize_bicubic(tall, {3, 3}).rgb,
            (std::vector<std::uint8_t>{97, 120, 136, 105, 173, 92,  103, 124, 139,
                                       93, 151, 128, 120, 142, 122, 153, 129, 141,
                                       79, 121, 107, 92,  165, 107, 174, 177, 100}));
}

TEST(ResizeBicubic, TheRightSizeIsLeftAlone) {
  const Image image = make_image(5, 3, [](auto x, auto y) {
    return Pixel{int(x * 50), int(y * 90), 7};
  });
  EXPECT_EQ(resize_bicubic(image, {5, 3}).rgb, image.rgb);
}

}  // namespace
}  // namespace m3
