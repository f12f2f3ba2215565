// Pictures of all formats: whatever the bytes, an error or a picture of as many bytes as it says.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "media/image.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::int64_t kPixelsMax = 1 << 18;  // small, for speed
  const auto image = m3::decode_image(std::as_bytes(std::span(data, size)), "input", kPixelsMax);
  if (!image) {
    M3_CHECK(!image.error().message.empty(), "an error without a sentence");
    return 0;
  }
  M3_CHECK(image->width > 0 && image->height > 0 && image->width * image->height <= kPixelsMax,
           "{} x {}", image->width, image->height);
  M3_CHECK(static_cast<std::int64_t>(image->rgb.size()) == 3 * image->width * image->height,
           "{} bytes for {} x {}", image->rgb.size(), image->width, image->height);
  return 0;
}
