// Weights for the linear layers of m3_bench_ops.
#pragma once

#include <algorithm>
#include <vector>

#include "ops/backend.h"

namespace m3 {

// Numbers that look like activations and like weights; only that they are ordinary matters.
inline void fill(const Tensor& x) {
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    state = state * 1664525u + 1013904223u;
    x.as<float>()[i] = static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }
}

// Matrix::scale of such weights.
inline float factor_of(const Codec& codec) {
  return codec.whole_scale == nullptr ? 1 : codec.whole_scale(1);
}

// Enough copies of a weight [outputs, k] to exceed `bytes_min`, packed where the backend packs.
class WeightCopies {
 public:
  WeightCopies(Backend& backend, const Codec& codec, std::int64_t outputs, std::int64_t k,
               std::int64_t bytes_min) {
    Buffer row(k * 4), values(value_row_bytes(codec, k)), scales(scale_row_bytes(codec, k) + 1);
    const Tensor x = row.tensor(DType::kF32, {k});
    fill(x);
    codec.encode(x.as<float>(), k, factor_of(codec), values.data(), scales.data());
    const std::int64_t one = outputs * (values.bytes() + scale_row_bytes(codec, k));
    const std::int64_t count = std::max<std::int64_t>(1, (bytes_min + one - 1) / one);
    buffers_.reserve(static_cast<std::size_t>(2 * count + 2));
    const Matrix first = matrix(codec, outputs, k, values, scales);
    const std::int64_t packed = backend.packed_bytes(first);
    for (std::int64_t i = 0; i < count; ++i) {
      linears_.push_back(
          {packed > 0 || i == 0 ? first : matrix(codec, outputs, k, values, scales)});
      if (packed == 0) continue;
      Buffer& panels = buffers_.emplace_back(packed);
      backend.pack(first, panels.data());
      linears_.back().weight.packed = panels.data();
    }
  }

  const Linear& operator[](std::int64_t i) const {
    return linears_[static_cast<std::size_t>(i) % linears_.size()];
  }

 private:
  Matrix matrix(const Codec& codec, std::int64_t outputs, std::int64_t k, const Buffer& values,
                const Buffer& scales) {
    const std::int64_t scale_bytes = scale_row_bytes(codec, k);
    Matrix w{&codec, repeat(values, values.bytes(), outputs)
                         .tensor(codec.values_dtype, {outputs, values_cols(codec, k)})};
    w.rows = outputs;
    w.cols = k;
    w.scale = factor_of(codec);
    if (scale_bytes > 0)
      w.scales = repeat(scales, scale_bytes, outputs)
                     .tensor(codec.scales_dtype, {outputs, scale_cols(codec, k)});
    return w;
  }
  const Buffer& repeat(const Buffer& row, std::int64_t bytes, std::int64_t times) {
    Buffer& all = buffers_.emplace_back(bytes * times);
    for (std::int64_t i = 0; i < times; ++i) std::copy_n(row.data(), bytes, all.data() + i * bytes);
    return all;
  }

  std::vector<Buffer> buffers_;
  std::vector<Linear> linears_;
};

inline constexpr std::int64_t kDistinctBytes = 1'100'000'000;
inline constexpr std::int64_t kFewRows =
    64;  // up to here a weight may be read faster than multiplied

}  // namespace m3
