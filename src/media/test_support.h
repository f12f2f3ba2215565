// What the tests of this folder share.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "base/file.h"
#include "media/image.h"

namespace m3 {

// The bytes of a file of tests/data/media (README.md there says how each was made).
inline std::string media_file(const std::string& name) {
  const auto file = MappedFile::open(M3_SOURCE_DIR "/tests/data/media/" + name);
  if (!file) throw std::runtime_error(file.error().message);
  const auto bytes = (*file)->bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

using Pixel = std::array<int, 3>;

inline Pixel pixel_of(const Image& image, std::int64_t x, std::int64_t y) {
  const std::uint8_t* p = &image.rgb[(y * image.width + x) * 3];
  return {p[0], p[1], p[2]};
}

// A picture whose pixel at (x, y) is `color(x, y)`.
template <typename Color>
Image make_image(std::int64_t width, std::int64_t height, const Color& color) {
  Image image{.width = width, .height = height, .rgb = {}};
  for (std::int64_t y = 0; y < height; ++y)
    for (std::int64_t x = 0; x < width; ++x)
      for (const int c : color(x, y)) image.rgb.push_back(static_cast<std::uint8_t>(c));
  return image;
}

// Largest difference of a level; 256 where the sizes differ.
inline int distance(const Image& a, const Image& b) {
  if (a.width != b.width || a.height != b.height) return 256;
  int worst = 0;
  for (std::size_t i = 0; i < a.rgb.size(); ++i)
    worst = std::max(worst, std::abs(a.rgb[i] - b.rgb[i]));
  return worst;
}

}  // namespace m3
