#include <cmath>
#include <vector>

#include "backend/reference/dot.h"
#include "backend/reference/head_norm.h"
#include "backend/reference/reference_backend.h"
#include "ops/arguments.h"

namespace m3::reference {

void gemma_norm(const float* x, const float* weight, std::int64_t dim, float eps, double* out) {
  const double mean_square = dot(x, x, dim) / static_cast<double>(dim);
  const double inverse = 1 / std::sqrt(mean_square + eps);
  for (std::int64_t i = 0; i < dim; ++i) out[i] = x[i] * inverse * (1 + double{weight[i]});
}

void ReferenceBackend::rms_norm(const Tensor& x, const Tensor& weight, float eps,
                                const Tensor& out) {
  expect_rank("rms_norm: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  expect_tensor("rms_norm: weight", weight, DType::kF32, {dim});
  expect_tensor("rms_norm: out", out, DType::kF32, {rows, dim});
  pool_.parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> normed(static_cast<std::size_t>(dim));
    for (std::int64_t row = begin; row < end; ++row) {
      gemma_norm(x.row<float>(row), weight.as<float>(), dim, eps, normed.data());
      for (std::int64_t i = 0; i < dim; ++i)
        out.row<float>(row)[i] = static_cast<float>(normed[static_cast<std::size_t>(i)]);
    }
  });
}

void ReferenceBackend::layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& out) {
  expect_rank("layer_norm: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  expect_tensor("layer_norm: weight", norm.weight, DType::kF32, {dim});
  expect_tensor("layer_norm: bias", norm.bias, DType::kF32, {dim});
  expect_tensor("layer_norm: out", out, DType::kF32, {rows, dim});
  const float* weight = norm.weight.as<float>();
  const float* bias = norm.bias.as<float>();
  pool_.parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* in = x.row<float>(row);
      double mean = 0, variance = 0;
      for (std::int64_t i = 0; i < dim; ++i) mean += in[i];
      mean /= static_cast<double>(dim);
      for (std::int64_t i = 0; i < dim; ++i) variance += (in[i] - mean) * (in[i] - mean);
      const double inverse = 1 / std::sqrt(variance / static_cast<double>(dim) + norm.eps);
      for (std::int64_t i = 0; i < dim; ++i)
        out.row<float>(row)[i] = static_cast<float>((in[i] - mean) * inverse * weight[i] + bias[i]);
    }
  });
}

}  // namespace m3::reference
