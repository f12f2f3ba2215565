// MXFP4: e2m1 values, two a byte, with one E8M0 exponent for 32 consecutive columns of a row.
// W[n, k] = e2m1(values[n, k]) * 2^(scales[n, k / 32] - 127), exact in float32; with an exponent
// byte in 2..252 also in bfloat16, as a normal number or zero.
#include <algorithm>
#include <array>
#include <cmath>

#include "tensor/codecs.h"

namespace m3 {
namespace {

constexpr std::int64_t kBlock = 32;
constexpr int kExponentMin = -127, kExponentMax = 127;

void decode(const Matrix& w, std::int64_t row, std::int64_t begin, std::int64_t end, float* out) {
  const std::uint8_t* values = w.values.row<std::uint8_t>(row);
  const std::uint8_t* scales = w.scales.row<std::uint8_t>(row);
  for (std::int64_t k = begin; k < end; ++k)
    out[k - begin] = e2m1_at(values, k) * e8m0_to_float(scales[k / kBlock]);
}

// A block with one exponent.
struct Block {
  int exponent;
  std::array<std::uint8_t, kBlock> bits{};
  double squared_error = 0;  // in units of 4^exponent
};

Block round_to(const float* x, std::int64_t count, int exponent) {
  Block block{.exponent = exponent};
  std::array<float, kBlock> errors{};
  // Multiplying by a power of two is exact (below the least normal number nothing survives e2m1),
  // so that only e2m1 rounds.
  const float inverse = std::ldexp(1.0f, -exponent);
  for (std::int64_t k = 0; k < count; ++k) {
    const auto at = static_cast<std::size_t>(k);
    block.bits[at] = float_to_e2m1(x[k] * inverse);
    errors[at] = e2m1_to_float(block.bits[at]) - x[k] * inverse;
  }
  for (const float error : errors) block.squared_error += double{error} * error;
  return block;
}

// With the smaller of two exponents the largest magnitude comes to lie in [4, 8), and saturates
// beyond 6; with the larger in [2, 4), and everything is coarser. The better one is taken, the
// smaller where they are equal. An all-zero block gets the smallest there is.
Block round_block(const float* x, std::int64_t count) {
  const float largest = largest_magnitude(x, count);
  if (largest == 0) return {.exponent = kExponentMin};
  const int low = std::clamp(std::ilogb(largest) - 2, kExponentMin, kExponentMax - 1);
  const Block fine = round_to(x, count, low), coarse = round_to(x, count, low + 1);
  return 4 * coarse.squared_error < fine.squared_error ? coarse : fine;
}

void encode(const float* row, std::int64_t cols, float, void* values, void* scales) {
  for (std::int64_t begin = 0; begin < cols; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, cols - begin);
    const Block block = round_block(row + begin, count);
    static_cast<std::uint8_t*>(scales)[begin / kBlock] =
        static_cast<std::uint8_t>(block.exponent + 127);
    for (std::int64_t k = 0; k < count; ++k)
      put_e2m1(static_cast<std::uint8_t*>(values), begin + k,
               block.bits[static_cast<std::size_t>(k)]);
  }
}

}  // namespace

const Codec kMxfp4Codec{Format::kMxfp4, "mxfp4", DType::kU8, 2,          kBlock,
                        DType::kU8,     decode,  encode,     check_e8m0, nullptr};

}  // namespace m3
