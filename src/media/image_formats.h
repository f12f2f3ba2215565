// One decoder per format, behind decode_image(), and what they share.
#pragma once

#include <csetjmp>

#include "media/image.h"

namespace m3 {

// The bytes of one file, how messages name it, and how large a picture may be.
struct ImageSource {
  std::span<const std::byte> bytes;
  std::string_view where;
  std::int64_t pixels_max;
};

// Each begins where the first bytes have already told the format.
Result<Image> decode_png(const ImageSource& source);
Result<Image> decode_jpeg(const ImageSource& source);
Result<Image> decode_webp(const ImageSource& source);
Result<Image> decode_gif(const ImageSource& source);

// Errors: a side of zero, or more than `pixels_max` pixels.
Status check_image_size(std::int64_t width, std::int64_t height, const ImageSource& source);

// One channel of a pixel with `alpha` of 255 over white, rounded to nearest as in Pillow.
inline std::uint8_t over_white(std::uint8_t channel, std::uint8_t alpha) {
  return static_cast<std::uint8_t>((255 * (255 - alpha) + channel * alpha + 127) / 255);
}

// Lays [pixels, 4] over white, in place: the vector then holds [pixels, 3].
void flatten_over_white(std::vector<std::uint8_t>& rgba);

// Calls C code that reports failure by a jump to `failed`; false when it jumped. `work` and what it
// calls must hold no object with a destructor, for a jump does not run it.
template <typename Work>
bool finishes(std::jmp_buf& failed, const Work& work) {
  if (setjmp(failed) != 0) return false;
  work();
  return true;
}

}  // namespace m3
