// Norms in float32. Limited by reading x, after the first time from the cache.
#include <algorithm>

#include "backend/cpu/cpu_gradients.h"
#include "backend/cpu/cpu_ops.h"
#include "ops/arguments.h"

namespace m3::cpu {

void CpuBackend::rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  expect_rank("rms_norm: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  expect_tensor("rms_norm: weight", weight, DType::kF32, {dim});
  expect_tensor("rms_norm: out", out, DType::kF32, {rows, dim});
  const NormParams norm{weight.as<float>(), eps, dim};
  for_each_task(pool_, rows, [&](std::int64_t row) {
    kernels_.rms_norm(x.row<float>(row), norm, out.row<float>(row));
  });
}

void CpuBackend::layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& out) {
  expect_rank("layer_norm: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  expect_tensor("layer_norm: weight", norm.weight, DType::kF32, {dim});
  expect_tensor("layer_norm: bias", norm.bias, DType::kF32, {dim});
  expect_tensor("layer_norm: out", out, DType::kF32, {rows, dim});
  const NormParams params{norm.weight.as<float>(), norm.eps, dim};
  for_each_task(pool_, rows, [&](std::int64_t row) {
    kernels_.layer_norm(x.row<float>(row), params, norm.bias.as<float>(), out.row<float>(row));
  });
}

void CpuGradients::rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& d_out,
                            const Tensor& d_x, const Tensor& d_weight) {
  expect_rank("rms_norm gradient: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  expect_tensor("rms_norm gradient: weight", weight, DType::kF32, {dim});
  expect_tensor("rms_norm gradient: d_out", d_out, DType::kF32, {rows, dim});
  expect_tensor("rms_norm gradient: d_x", d_x, DType::kF32, {rows, dim});
  for_rows_and_weight(rows, d_weight, dim, [&](std::int64_t row, float* d_share) {
    kernels_.rms_norm_gradient({.x = x.row<float>(row),
                                .norm = {weight.as<float>(), eps, dim},
                                .d_out = d_out.row<float>(row),
                                .d_x = d_x.row<float>(row),
                                .adds = true,
                                .d_weight = d_share});
  });
}

void CpuGradients::for_rows_and_weight(std::int64_t rows, const Tensor& d_weight, std::int64_t dim,
                                       const std::function<void(std::int64_t, float*)>& body) {
  constexpr std::int64_t kRows = 64;  // that share a sum
  const std::int64_t sums = divide_up(rows, kRows);
  arena_.reset();
  float* shares = d_weight ? arena_.take<float>(sums * dim) : nullptr;
  for_each_task(pool_, sums, [&](std::int64_t i) {
    float* share = shares == nullptr ? nullptr : shares + i * dim;
    if (share != nullptr) std::fill_n(share, dim, 0.0f);
    for (std::int64_t row = i * kRows; row < std::min(rows, (i + 1) * kRows); ++row)
      body(row, share);
  });
  if (!d_weight) return;
  expect_tensor("norm gradient: d_weight", d_weight, DType::kF32, {dim});
  for (std::int64_t i = 0; i < sums; ++i) kernels_.add(shares + i * dim, dim, d_weight.as<float>());
}

}  // namespace m3::cpu
