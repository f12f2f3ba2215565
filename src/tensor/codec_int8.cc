// int8: signed bytes with one float16 scale for 32 consecutive columns of a row, as the 8-bit forms
// of other engines have it. W[n, k] = values[n, k] * scales[n, k / 32], exact in float32: seven
// bits times eleven.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/codecs.h"

namespace m3 {
namespace {

constexpr std::int64_t kBlock = 32;
constexpr float kValueMax = 127;
constexpr std::uint16_t kF16Max = 0x7bff;  // 65504

// Mapped scales may lie at any address.
std::uint16_t scale_bits(const Matrix& w, std::int64_t row, std::int64_t block) {
  std::uint16_t bits;
  const auto at = static_cast<std::size_t>(row * w.scales.dim(1) + block);
  std::memcpy(&bits, static_cast<const std::byte*>(w.scales.data) + at * sizeof bits, sizeof bits);
  return bits;
}

void decode(const Matrix& w, std::int64_t row, std::int64_t begin, std::int64_t end, float* out) {
  const auto* values = static_cast<const std::int8_t*>(w.values.data) + row * w.cols;
  for (std::int64_t k = begin; k < end;) {
    const std::int64_t block_end = std::min((k / kBlock + 1) * kBlock, end);
    const float scale = f16_to_float(scale_bits(w, row, k / kBlock));
    for (; k < block_end; ++k) out[k - begin] = values[k] * scale;
  }
}

void encode(const float* row, std::int64_t cols, float, void* values, void* scales) {
  for (std::int64_t begin = 0; begin < cols; begin += kBlock) {
    const std::int64_t end = std::min(begin + kBlock, cols);
    const float wanted = largest_magnitude(row + begin, end - begin) / kValueMax;
    const std::uint16_t bits = std::min(float_to_f16(wanted), kF16Max);
    std::memcpy(static_cast<std::byte*>(scales) + begin / kBlock * 2, &bits, sizeof bits);
    const float scale = f16_to_float(bits);
    for (std::int64_t k = begin; k < end; ++k) {  // a block too small for any scale becomes zeros
      const float q = scale == 0 ? 0 : std::nearbyint(row[k] / scale);
      static_cast<std::int8_t*>(values)[k] =
          static_cast<std::int8_t>(std::clamp(q, -kValueMax, kValueMax));
    }
  }
}

Status check(const Matrix& w) {
  for (std::int64_t row = 0; row < w.rows; ++row)
    for (std::int64_t block = 0; block < w.scales.dim(1); ++block)
      if ((scale_bits(w, row, block) & 0x7c00) == 0x7c00)
        return fail("scale [{}, {}] is not finite (float16): the checkpoint is damaged", row,
                    block);
  return {};
}

}  // namespace

const Codec kInt8Codec{Format::kInt8, "int8", DType::kI8, 1,     kBlock,
                       DType::kF16,   decode, encode,     check, nullptr};

}  // namespace m3
