#include <random>

#include "media/image_formats.h"
#include "media/test_support.h"

namespace m3 {
namespace {

Image decoded(const std::string& name) {
  auto image = decode_image(as_bytes(media_file(name)), name);
  EXPECT_TRUE(image) << image.error().message;
  return image ? *std::move(image) : Image{};
}

// What smooth.* and most others show.
Pixel smooth(std::int64_t x, std::int64_t y) {
  return {int(20 * x), int(30 * y), int(255 - 10 * x - 10 * y)};
}

TEST(DecodeImage, LosslessFormats) {
  const Image expected = make_image(12, 8, smooth);
  EXPECT_EQ(distance(decoded("smooth.png"), expected), 0);
  EXPECT_EQ(distance(decoded("smooth.webp"), expected), 0);
  EXPECT_EQ(distance(decoded("moving.webp"), expected), 0);
}

TEST(DecodeImage, Jpeg) {
  const Image expected = make_image(12, 8, smooth);
  EXPECT_LE(distance(decoded("smooth.jpg"), expected), 24);
  EXPECT_EQ(distance(decoded("progressive.jpg"), decoded("smooth.jpg")), 0);
  EXPECT_LE(distance(decoded("cmyk.jpg"), expected), 24);
  const Image grey = decoded("grey.jpg");
  const Pixel corner = pixel_of(grey, 11, 7);
  EXPECT_NEAR(corner[0], 0.299 * 220 + 0.587 * 210 + 0.114 * 75, 4);
  EXPECT_TRUE(corner[0] == corner[1] && corner[1] == corner[2]);
}

TEST(DecodeImage, ExifTurnsJpegPngAndWebp) {
  // Stored 12 x 8, shown turned to the right.
  const Image expected = make_image(8, 12, [](auto x, auto y) { return smooth(y, 7 - x); });
  EXPECT_EQ(distance(decoded("turned.png"), expected), 0);
  EXPECT_EQ(distance(decoded("turned.webp"), expected), 0);
  EXPECT_LE(distance(decoded("turned.jpg"), expected), 24);
}

TEST(DecodeImage, TransparencyIsLaidOverWhite) {
  const Image expected = make_image(12, 8, [](auto x, auto y) {
    Pixel p = smooth(x, y);
    const int alpha = int(20 * x + 10);
    for (int& c : p) c = (255 * (255 - alpha) + c * alpha + 127) / 255;
    return p;
  });
  EXPECT_EQ(distance(decoded("alpha.png"), expected), 0);
  EXPECT_EQ(distance(decoded("alpha.webp"), expected), 0);
  const Image grey = decoded("grey-alpha.png");
  EXPECT_EQ(pixel_of(grey, 5, 0), (Pixel{255, 255, 255}));
  EXPECT_EQ(over_white(0, 255), 0);
  EXPECT_EQ(over_white(0, 128), 127);
}

TEST(DecodeImage, Palettes) {
  const Pixel red{255, 0, 0}, green{0, 255, 0}, blue{0, 0, 255}, dark{9, 9, 9};
  const Pixel white{255, 255, 255};
  const auto rows = [](std::array<Pixel, 4> first) {
    return make_image(4, 2, [=](auto x, auto y) { return first[y == 0 ? x : 3 - x]; });
  };
  EXPECT_EQ(distance(decoded("palette.png"), rows({red, white, blue, dark})), 0);
  EXPECT_EQ(distance(decoded("palette.gif"), rows({red, green, white, dark})), 0);
}

TEST(DecodeImage, GifFramesOnTheirCanvas) {
  const std::array<Pixel, 4> colors{{{10, 20, 30}, {40, 50, 60}, {70, 80, 90}, {100, 110, 120}}};
  // A frame of 2 x 2, indices 1 2 3 0, at (2, 1).
  const auto on_canvas = [&](std::int64_t width, std::int64_t height, Pixel ground, Pixel three) {
    return make_image(width, height, [&](auto x, auto y) {
      if (x < 2 || x > 3 || y < 1 || y > 2) return ground;
      const auto index = ((y - 1) * 2 + x - 2 + 1) % 4;
      return index == 3 ? three : colors[index];
    });
  };
  const Pixel white{255, 255, 255};
  EXPECT_EQ(distance(decoded("offset.gif"), on_canvas(5, 4, colors[0], colors[3])), 0);
  EXPECT_EQ(distance(decoded("offset-transparent.gif"), on_canvas(5, 4, white, white)), 0);
  EXPECT_EQ(distance(decoded("enlarging.gif"), on_canvas(4, 3, colors[0], colors[3])), 0);
  EXPECT_EQ(distance(decoded("interlaced.gif"),
                     make_image(2, 9, [&](auto x, auto y) { return colors[(2 * y + x) % 4]; })),
            0);
}

TEST(DecodeImage, OtherDepths) {
  EXPECT_EQ(distance(decoded("rgb16.png"), make_image(12, 8,
                                                      [](auto x, auto y) {
                                                        Pixel p = smooth(x, y);
                                                        for (int& c : p)
                                                          c = c > 0 ? (c * 257 - 3) >> 8 : 0;
                                                        return p;
                                                      })),
            0);
  EXPECT_EQ(distance(decoded("sixteen.png"), make_image(12, 8,
                                                        [](auto x, auto y) {
                                                          const int grey =
                                                              int((12 * y + x) * 680) >> 8;
                                                          return Pixel{grey, grey, grey};
                                                        })),
            0);
  for (const std::uint8_t level : decoded("one-bit.png").rgb)
    EXPECT_TRUE(level == 0 || level == 255);
}

// ------------------------------------------------------------------------------ hostile files

std::string message_of(const std::string& bytes, std::int64_t pixels_max = kImagePixelsMax) {
  const auto image = decode_image(as_bytes(bytes), "input", pixels_max);
  return image ? "" : image.error().message;
}

TEST(HostileImage, WhatIsNoPicture) {
  EXPECT_NE(message_of("").find("empty"), std::string::npos);
  for (const char* text : {"hello", "%PDF-1.7", "RIFF    WAVE", "BM", "GIF88a"})
    EXPECT_NE(message_of(text).find("PNG, JPEG, WebP or GIF"), std::string::npos) << text;
  EXPECT_EQ(message_of("%PDF-1.7"),
            "input is no picture that can be read: expected PNG, JPEG, WebP or GIF, found a PDF "
            "document");
}

const std::vector<std::string> kFiles{
    "smooth.png", "smooth.jpg",  "progressive.jpg", "cmyk.jpg",   "smooth.webp", "moving.webp",
    "alpha.webp", "palette.gif", "turned.jpg",      "turned.png", "turned.webp", "sixteen.png"};

TEST(HostileImage, EveryTruncationIsRefused) {
  for (const std::string& name : kFiles) {
    const std::string whole = media_file(name);
    // A GIF is complete without the byte that ends it.
    const std::size_t end = name.ends_with(".gif") ? whole.size() - 1 : whole.size();
    for (std::size_t length = 0; length < end; ++length)
      ASSERT_NE(message_of(whole.substr(0, length)), "") << name << " cut to " << length;
  }
}

TEST(HostileImage, DamagedBytesEndInAPictureOrASentence) {
  std::minstd_rand random(1);
  for (const std::string& name : kFiles) {
    const std::string whole = media_file(name);
    for (int i = 0; i < 100; ++i) {
      std::string bytes = whole;
      for (int n = 0; n < 3; ++n) bytes[random() % bytes.size()] = static_cast<char>(random());
      message_of(bytes, /*pixels_max=*/100'000);
    }
  }
}

TEST(HostileImage, TooLargeIsToldByTheHeaderAlone) {
  std::string png = media_file("smooth.png");
  png.replace(16, 8, std::string("\0\0\x75\x30\0\0\x75\x30", 8));
  png.replace(29, 4, "\xe9\x45\x6f\xed");  // the header's check sum
  EXPECT_NE(message_of(png).find("30000 x 30000"), std::string::npos) << message_of(png);
  for (const std::string& name : kFiles)
    EXPECT_NE(message_of(media_file(name), /*pixels_max=*/4).find("at most 4 pixels"),
              std::string::npos)
        << name;
}

}  // namespace
}  // namespace m3
