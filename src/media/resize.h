// The size at which the model sees a picture, and Pillow's way of getting there.
#pragma once

#include "media/image.h"

namespace m3 {

struct Size {
  std::int64_t width = 0;   // pixels
  std::int64_t height = 0;  // pixels
  friend bool operator==(const Size&, const Size&) = default;
};

// What a resized picture must keep to.
struct SizeRule {
  std::int64_t factor = 28;           // each side is a multiple of this
  std::int64_t pixels_min = 3'136;    // the area, unless the sides are long and thin
  std::int64_t pixels_max = 451'584;  // the area
};

// The multiples of `factor` nearest to the picture's sides, made smaller or larger to keep the area
// within the rule (spec: vision §3.2). Errors: a side of zero, one side more than 200 times the
// other, or limits so low that a side would become zero.
Result<Size> smart_resize(Size size, const SizeRule& rule);

// The vendor's rule for a client that caps the long side (spec: vision §3.7): a longer one is
// scaled down to the cap; else a short side under 112 pixels is scaled up to that; then each side
// becomes the nearest multiple of `factor`. The area limits above do not hold. Errors: a side or a
// cap that is not positive, or more than 12,845,056 pixels.
Result<Size> long_side_resize(Size size, std::int64_t long_side_max, std::int64_t factor);

// Antialiased bicubic (a = -1/2) in Pillow's fixed point: the same bytes as Image.resize(size,
// BICUBIC) of Pillow 13 (spec: vision §3.3). Returns the image itself where the size is already
// right.
Image resize_bicubic(Image image, Size size);

}  // namespace m3
