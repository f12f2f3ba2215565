// What several codecs share.
#include <algorithm>
#include <bit>

#include "tensor/codecs.h"

namespace m3 {

Status check_e8m0(const Matrix& w) {
  const std::int64_t blocks = w.scales.dim(1);
  for (std::int64_t row = 0; row < w.rows; ++row) {
    const std::uint8_t* scales = w.scales.row<std::uint8_t>(row);
    const auto* bad = std::find(scales, scales + blocks, std::uint8_t{255});
    if (bad != scales + blocks)
      return fail("scale [{}, {}] is NaN (E8M0 byte 255): the checkpoint is damaged", row,
                  bad - scales);
  }
  return {};
}

float e2m1_at(const std::uint8_t* values, std::int64_t k) {
  const std::uint8_t byte = values[k / 2];
  return e2m1_to_float(static_cast<std::uint8_t>(k % 2 == 0 ? byte & 15 : byte >> 4));
}

void put_e2m1(std::uint8_t* values, std::int64_t k, std::uint8_t bits) {
  std::uint8_t& byte = values[k / 2];
  byte = static_cast<std::uint8_t>(k % 2 == 0 ? bits : byte | bits << 4);
}

float largest_magnitude(const float* x, std::int64_t count) {
  std::uint32_t largest = 0;  // magnitudes order as their bits do
  for (std::int64_t k = 0; k < count; ++k)
    largest = std::max(largest, std::bit_cast<std::uint32_t>(x[k]) & 0x7fffffffu);
  return std::bit_cast<float>(largest);
}

}  // namespace m3
