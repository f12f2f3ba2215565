// NVFP4 (spec: text-model §2.5): e2m1 values, two a byte, with one e4m3 scale for 16 consecutive
// columns of a row and one float32 factor for the matrix.
// W[n, k] = e2m1(values[n, k]) * e4m3(scales[n, k / 16]) * Matrix::scale. The first product has at
// most six bits of mantissa: it is exact in bfloat16.
#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/codecs.h"

namespace m3 {
namespace {

constexpr std::int64_t kBlock = 16;
constexpr float kValueMax = 6, kScaleMax = 448;  // of e2m1 and of e4m3

void decode(const Matrix& w, std::int64_t row, std::int64_t begin, std::int64_t end, float* out) {
  const std::uint8_t* values = w.values.row<std::uint8_t>(row);
  const std::uint8_t* scales = w.scales.row<std::uint8_t>(row);
  for (std::int64_t k = begin; k < end; ++k)
    out[k - begin] = e2m1_at(values, k) * e4m3_to_float(scales[k / kBlock]) * w.scale;
}

// With it the block of the largest magnitude has the largest scale.
float whole_scale(float largest) {
  if (largest == 0) return 1;
  return std::max(largest / (kValueMax * kScaleMax), std::numeric_limits<float>::min());
}

void encode(const float* row, std::int64_t cols, float factor, void* values, void* scales) {
  for (std::int64_t begin = 0; begin < cols; begin += kBlock) {
    const std::int64_t end = std::min(begin + kBlock, cols);
    const float wanted = largest_magnitude(row + begin, end - begin) / kValueMax / factor;
    const std::uint8_t scale = float_to_e4m3(wanted);  // saturates at 448
    static_cast<std::uint8_t*>(scales)[begin / kBlock] = scale;
    const double step = double{e4m3_to_float(scale)} * factor;
    for (std::int64_t k = begin; k < end; ++k)  // a block too small for any scale becomes zeros
      put_e2m1(static_cast<std::uint8_t*>(values), k,
               step == 0 ? std::uint8_t{0} : float_to_e2m1(static_cast<float>(row[k] / step)));
  }
}

Status check(const Matrix& w) {
  if (!std::isfinite(w.scale) || w.scale <= 0)
    return fail("the factor of the whole matrix is {}, expected a positive number: {}", w.scale,
                "the checkpoint is damaged");
  for (std::int64_t row = 0; row < w.rows; ++row)
    for (std::int64_t block = 0; block < w.scales.dim(1); ++block)
      if ((w.scales.row<std::uint8_t>(row)[block] & 0x7f) == 0x7f)
        return fail("scale [{}, {}] is NaN (e4m3): the checkpoint is damaged", row, block);
  return {};
}

}  // namespace

const Codec kNvfp4Codec{Format::kNvfp4, "nvfp4", DType::kU8, 2,     kBlock,
                        DType::kF8E4M3, decode,  encode,     check, whole_scale};

}  // namespace m3
