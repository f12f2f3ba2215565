#include "media/pixel_rows.h"

#include <cmath>

#include "media/test_support.h"

namespace m3 {
namespace {

// Levels as they are, so that a test can name them.
PreprocessOptions plain() {
  PreprocessOptions options;
  options.mean = {0, 0, 0};
  options.std = {1.0f / 255, 1.0f / 255, 1.0f / 255};
  return options;
}

int level(const PixelRows& rows, std::int64_t row, std::int64_t column) {
  return static_cast<int>(std::lround(rows.values[row * 1176 + column]));
}

// Vision §3.6: F[2t+tp][c][(2 bh + mh) 14 + ph][(2 bw + mw) 14 + pw], with a pixel that tells its
// frame, channel and place.
TEST(PixelRows, OrderOfRowsAndColumns) {
  constexpr std::int64_t kWidth = 84, kHeight = 56;
  const auto told = [](std::int64_t f, std::int64_t c, std::int64_t y, std::int64_t x) {
    return static_cast<int>((f * 101 + c * 67 + y * 13 + x * 7 + x * y) % 256);
  };
  std::vector<Image> frames;
  for (std::int64_t f = 0; f < 4; ++f)
    frames.push_back(make_image(kWidth, kHeight, [&](auto x, auto y) {
      return Pixel{told(f, 0, y, x), told(f, 1, y, x), told(f, 2, y, x)};
    }));
  const PixelRows rows = cut_into_rows(frames, plain());
  ASSERT_EQ(rows.grid, (Grid{2, 4, 6}));
  ASSERT_EQ(rows.values.size(), 48u * 1176u);
  std::int64_t row = 0;
  for (std::int64_t t = 0; t < 2; ++t)
    for (std::int64_t bh = 0; bh < 2; ++bh)
      for (std::int64_t bw = 0; bw < 3; ++bw)
        for (std::int64_t mh = 0; mh < 2; ++mh)
          for (std::int64_t mw = 0; mw < 2; ++mw, ++row)
            for (const auto [c, tp, ph, pw] : {std::array<std::int64_t, 4>{0, 0, 0, 0},
                                               {1, 0, 3, 5},
                                               {2, 1, 13, 13},
                                               {0, 1, 0, 13},
                                               {2, 0, 13, 0}})
              ASSERT_EQ(level(rows, row, 392 * c + 196 * tp + 14 * ph + pw),
                        told(2 * t + tp, c, (2 * bh + mh) * 14 + ph, (2 * bw + mw) * 14 + pw))
                  << row;
}

TEST(PixelRows, APictureIsBothFramesAndAnOddClipRepeatsItsLast) {
  const auto grey = [](int shade) {
    return make_image(56, 56, [=](auto, auto) { return Pixel{shade, shade, shade}; });
  };
  const std::vector<Image> frames{grey(10), grey(20), grey(30)};
  const PixelRows clip = cut_into_rows(frames, plain());
  ASSERT_EQ(clip.grid, (Grid{2, 4, 4}));
  EXPECT_EQ(level(clip, 0, 0), 10);
  EXPECT_EQ(level(clip, 0, 196), 20);
  EXPECT_EQ(level(clip, 16, 0), 30);
  EXPECT_EQ(level(clip, 16, 196), 30);
  const PixelRows picture = cut_into_rows({&frames[0], 1}, plain());
  ASSERT_EQ(picture.grid, (Grid{1, 4, 4}));
  EXPECT_EQ(level(picture, 15, 1175), 10);
  EXPECT_EQ(level(picture, 15, 0), 10);
}

TEST(PixelRows, NormalisesWithTheConstantsOfClip) {
  const auto rows = image_rows(make_image(56, 56,
                                          [](auto, auto) {
                                            return Pixel{0, 128, 255};
                                          }),
                               {});
  ASSERT_TRUE(rows);
  EXPECT_FLOAT_EQ(rows->values[0], -1.7922626f);
  EXPECT_FLOAT_EQ(rows->values[392], 0.16889732f);
  EXPECT_FLOAT_EQ(rows->values[784], 2.1458969f);
}

TEST(PixelRows, PicturesAreResizedFirst) {
  const auto rows = image_rows(make_image(300, 80, [](auto, auto) { return Pixel{1, 2, 3}; }), {});
  ASSERT_TRUE(rows);
  EXPECT_EQ(rows->grid, (Grid{1, 6, 22}));
  EXPECT_FALSE(image_rows(make_image(201, 1, [](auto, auto) { return Pixel{}; }), {}));
}

}  // namespace
}  // namespace m3
