#include "media/orientation.h"

#include "media/test_support.h"

namespace m3 {
namespace {

// A TIFF header and a directory of one entry.
std::string exif(bool big_endian, int type, int value) {
  const auto number = [&](int n, int size) {
    std::string text;
    for (int i = 0; i < size; ++i)
      text += static_cast<char>(n >> 8 * (big_endian ? size - 1 - i : i));
    return text;
  };
  const std::string field = type == 3 ? number(value, 2) + number(0, 2) : number(value, 4);
  return (big_endian ? "MM" : "II") + number(42, 2) + number(8, 4) + number(1, 2) +
         number(0x112, 2) + number(type, 2) + number(1, 4) + field + number(0, 4);
}

TEST(ExifOrientation, IsFoundInEitherByteOrder) {
  for (const bool big_endian : {false, true})
    for (int value = 1; value <= 8; ++value) {
      EXPECT_EQ(exif_orientation(as_bytes(exif(big_endian, 3, value))), value);
      EXPECT_EQ(exif_orientation(as_bytes(exif(big_endian, 4, value))), value);
      const std::string marked = std::string("Exif\0\0", 6) + exif(big_endian, 3, value);
      EXPECT_EQ(exif_orientation(as_bytes(marked)), value);
    }
}

TEST(ExifOrientation, DamagedBytesMeanUpright) {
  const std::string good = exif(false, 3, 6);
  for (std::size_t length = 0; length < 20; ++length)
    EXPECT_EQ(exif_orientation(as_bytes(good.substr(0, length))), kUpright) << length;
  EXPECT_EQ(exif_orientation(as_bytes(exif(false, 3, 0))), kUpright);
  EXPECT_EQ(exif_orientation(as_bytes(exif(false, 3, 9))), kUpright);
  EXPECT_EQ(exif_orientation(as_bytes(exif(false, 2, 6))), kUpright);
  std::string far = good;
  for (int i = 4; i < 8; ++i) far[i] = '\xff';
  EXPECT_EQ(exif_orientation(as_bytes(far)), kUpright);
}

// A letter F, and how it must be stored to be shown upright again.
TEST(TurnUpright, AllEightWays) {
  const auto picture = [](std::int64_t width, const std::string& marks) {
    return make_image(width, static_cast<std::int64_t>(marks.size()) / width, [&](auto x, auto y) {
      return Pixel{marks[y * width + x], 0, 1};
    });
  };
  const Image upright = picture(2,
                                "##"
                                "#."
                                "#.");
  const std::array<Image, 8> stored{upright,
                                    picture(2,
                                            "##"
                                            ".#"
                                            ".#"),
                                    picture(2,
                                            ".#"
                                            ".#"
                                            "##"),
                                    picture(2,
                                            "#."
                                            "#."
                                            "##"),
                                    picture(3,
                                            "###"
                                            "#.."),
                                    picture(3,
                                            "#.."
                                            "###"),
                                    picture(3,
                                            "..#"
                                            "###"),
                                    picture(3,
                                            "###"
                                            "..#")};
  for (int orientation = 1; orientation <= 8; ++orientation)
    EXPECT_EQ(distance(turn_upright(stored[orientation - 1], orientation), upright), 0)
        << orientation;
}

}  // namespace
}  // namespace m3
