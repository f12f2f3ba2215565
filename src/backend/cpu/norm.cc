// Norms in float32. Limited by reading x, after the first time from the cache.
#include <algorithm>
#include <cmath>

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

void CpuGradients::layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& d_out,
                              const Tensor& d_x, const Tensor& d_weight, const Tensor& d_bias) {
  expect_rank("layer_norm gradient: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  expect_tensor("layer_norm gradient: weight", norm.weight, DType::kF32, {dim});
  expect_tensor("layer_norm gradient: d_out", d_out, DType::kF32, {rows, dim});
  expect_tensor("layer_norm gradient: d_x", d_x, DType::kF32, {rows, dim});
  const float* weight = norm.weight.as<float>();
  const std::vector<float> ones(static_cast<std::size_t>(dim), 1.0f);
  const auto mean_of = [&](const float* a, const float* b) {
    return kernels_.inner_product(a, b, dim) / static_cast<float>(dim);
  };
  tasks_.reserve(2 * TaskScratch::bytes_for<float>(dim));
  for_rows_and_weight(rows, d_weight, dim, [&](std::int64_t row, float* d_share) {
    TaskScratch::Slice slice(tasks_);
    float* standard = slice.take<float>(dim);  // (x - mean) / deviation
    float* d = slice.take<float>(dim);         // by it
    const float *in = x.row<float>(row), *given = d_out.row<float>(row);
    const float mean = mean_of(in, ones.data());
    for (std::int64_t i = 0; i < dim; ++i) standard[i] = in[i] - mean;
    const float inverse = 1 / std::sqrt(mean_of(standard, standard) + norm.eps);
    for (std::int64_t i = 0; i < dim; ++i) standard[i] *= inverse;
    for (std::int64_t i = 0; i < dim; ++i) d[i] = given[i] * weight[i];
    const float level = mean_of(d, ones.data()), along = mean_of(d, standard);
    float* to = d_x.row<float>(row);
    for (std::int64_t i = 0; i < dim; ++i) to[i] += inverse * (d[i] - level - standard[i] * along);
    if (d_share == nullptr) return;
    for (std::int64_t i = 0; i < dim; ++i) d_share[i] += given[i] * standard[i];
  });
  if (d_bias) add_row(d_out, d_bias);
}

void CpuGradients::add_row(const Tensor& d_out, const Tensor& d_row) {
  expect_rank("add_row: d_out", d_out, 2);
  const std::int64_t dim = d_out.dim(1);
  expect_tensor("add_row: d_row", d_row, DType::kF32, {dim});
  for_rows_and_weight(d_out.dim(0), d_row, dim, [&](std::int64_t row, float* share) {
    kernels_.add(d_out.row<float>(row), dim, share);
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
