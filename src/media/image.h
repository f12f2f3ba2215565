// Pictures as clients send them, decoded to 8-bit RGB (spec: vision §3.1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace m3 {

struct Image {
  std::int64_t width = 0;         // pixels
  std::int64_t height = 0;        // pixels
  std::vector<std::uint8_t> rgb;  // [height, width, 3]
};

// What a header may promise: beyond this a picture is refused before memory is taken for it.
constexpr std::int64_t kImagePixelsMax = 100'000'000;

// Decodes PNG, JPEG, WebP or GIF, told apart by their first bytes. The result is upright (EXIF
// orientation is applied) and opaque: transparency is laid over white. Grey, palette, 16-bit (the
// high byte) and CMYK pictures become RGB; of a moving picture the first frame counts, on its
// canvas. Colour profiles and gamma are not applied, as Pillow does not apply them.
// `where` names the source in messages. Errors: no bytes, another format, a damaged or truncated
// file, more than `pixels_max` pixels.
Result<Image> decode_image(std::span<const std::byte> bytes, std::string_view where,
                           std::int64_t pixels_max = kImagePixelsMax);

}  // namespace m3
