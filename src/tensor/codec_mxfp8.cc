// MXFP8: e4m3fn values with one E8M0 exponent for 32 consecutive columns of a row.
// W[n, k] = e4m3(values[n, k]) * 2^(scales[n, k / 32] - 127), exact in float32 (spec: text-model
// §2.4). Every such product with an exponent byte in 10..246 is also exact in bfloat16.
#include <algorithm>
#include <cmath>

#include "tensor/codecs.h"

namespace m3 {
namespace {

constexpr std::int64_t kBlock = 32;

void decode(const Matrix& w, std::int64_t row, std::int64_t begin, std::int64_t end, float* out) {
  const std::uint8_t* values = w.values.row<std::uint8_t>(row);
  const std::uint8_t* scales = w.scales.row<std::uint8_t>(row);
  for (std::int64_t k = begin; k < end; ++k)
    out[k - begin] = e4m3_to_float(values[k]) * e8m0_to_float(scales[k / kBlock]);
}

// The smallest exponent with which the block's largest magnitude fits 448 = 0.875 * 2^9; an
// all-zero block gets the smallest there is.
int block_exponent(const float* x, std::int64_t count) {
  const float largest = largest_magnitude(x, count);
  if (largest == 0) return -127;
  int exponent = 0;
  const float mantissa = std::frexp(largest, &exponent);
  return std::clamp(mantissa <= 0.875f ? exponent - 9 : exponent - 8, -127, 127);
}

void encode(const float* row, std::int64_t cols, float, void* values, void* scales) {
  auto* out = static_cast<std::uint8_t*>(values);
  for (std::int64_t begin = 0; begin < cols; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, cols - begin);
    const int exponent = block_exponent(row + begin, count);
    static_cast<std::uint8_t*>(scales)[begin / kBlock] = static_cast<std::uint8_t>(exponent + 127);
    // Multiplying by a power of two is exact, so that only e4m3 rounds.
    const float inverse = std::ldexp(1.0f, -exponent);
    for (std::int64_t k = begin; k < begin + count; ++k) out[k] = float_to_e4m3(row[k] * inverse);
  }
}

}  // namespace

const Codec kMxfp8Codec{Format::kMxfp8, "mxfp8", DType::kF8E4M3, 1,          kBlock,
                        DType::kU8,     decode,  encode,         check_e8m0, nullptr};

}  // namespace m3
