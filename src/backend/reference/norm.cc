#include <cmath>
#include <vector>

#include "backend/reference/dot.h"
#include "backend/reference/head_norm.h"
#include "backend/reference/reference_backend.h"
#include "backend/reference/reference_gradients.h"
#include "ops/arguments.h"

namespace m3::reference {

double inverse_rms(const float* x, std::int64_t dim, float eps) {
  return 1 / std::sqrt(dot(x, x, dim) / static_cast<double>(dim) + eps);
}

void gemma_norm(const float* x, const float* weight, std::int64_t dim, float eps, double* out) {
  const double inverse = inverse_rms(x, dim, eps);
  for (std::int64_t i = 0; i < dim; ++i) out[i] = x[i] * inverse * (1 + double{weight[i]});
}

void gemma_norm_gradient(const float* x, const float* weight, std::int64_t dim, double inverse,
                         const double* d_out, double* d_x) {
  double along = 0;
  for (std::int64_t i = 0; i < dim; ++i)
    along += d_out[i] * (1 + double{weight[i]}) * (x[i] * inverse);
  along /= static_cast<double>(dim);
  for (std::int64_t i = 0; i < dim; ++i)
    d_x[i] = inverse * (d_out[i] * (1 + double{weight[i]}) - x[i] * inverse * along);
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

namespace {

struct Moments {
  double mean = 0;
  double inverse = 1;  // 1 / sqrt(variance + eps)
};

Moments moments_of(const float* x, std::int64_t dim, float eps) {
  double mean = 0, variance = 0;
  for (std::int64_t i = 0; i < dim; ++i) mean += x[i];
  mean /= static_cast<double>(dim);
  for (std::int64_t i = 0; i < dim; ++i) variance += (x[i] - mean) * (x[i] - mean);
  return {mean, 1 / std::sqrt(variance / static_cast<double>(dim) + eps)};
}

}  // namespace

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
      const Moments m = moments_of(in, dim, norm.eps);
      for (std::int64_t i = 0; i < dim; ++i)
        out.row<float>(row)[i] =
            static_cast<float>((in[i] - m.mean) * m.inverse * weight[i] + bias[i]);
    }
  });
}

void ReferenceGradients::rms_norm(const Tensor& x, const Tensor& weight, float eps,
                                  const Tensor& d_out, const Tensor& d_x, const Tensor& d_weight) {
  expect_rank("rms_norm gradient: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  expect_tensor("rms_norm gradient: weight", weight, DType::kF32, {dim});
  expect_tensor("rms_norm gradient: d_out", d_out, DType::kF32, {rows, dim});
  expect_tensor("rms_norm gradient: d_x", d_x, DType::kF32, {rows, dim});
  std::vector<double> inverse(static_cast<std::size_t>(rows));
  pool_.parallel_for(rows, 1, [&](std::int64_t row, std::int64_t) {
    const double r = inverse[static_cast<std::size_t>(row)] =
        inverse_rms(x.row<float>(row), dim, eps);
    const std::vector<double> d(d_out.row<float>(row), d_out.row<float>(row) + dim);
    std::vector<double> result(d.size());
    gemma_norm_gradient(x.row<float>(row), weight.as<float>(), dim, r, d.data(), result.data());
    for (std::int64_t i = 0; i < dim; ++i)
      d_x.row<float>(row)[i] += static_cast<float>(result[static_cast<std::size_t>(i)]);
  });
  if (!d_weight) return;
  expect_tensor("rms_norm gradient: d_weight", d_weight, DType::kF32, {dim});
  pool_.parallel_for(dim, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      double sum = 0;
      for (std::int64_t row = 0; row < rows; ++row)
        sum += double{d_out.row<float>(row)[i]} * x.row<float>(row)[i] *
               inverse[static_cast<std::size_t>(row)];
      d_weight.as<float>()[i] += static_cast<float>(sum);
    }
  });
}

void ReferenceGradients::layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& d_out,
                                    const Tensor& d_x, const Tensor& d_weight,
                                    const Tensor& d_bias) {
  expect_rank("layer_norm gradient: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  expect_tensor("layer_norm gradient: weight", norm.weight, DType::kF32, {dim});
  expect_tensor("layer_norm gradient: d_out", d_out, DType::kF32, {rows, dim});
  expect_tensor("layer_norm gradient: d_x", d_x, DType::kF32, {rows, dim});
  const float* weight = norm.weight.as<float>();
  std::vector<Moments> moments(static_cast<std::size_t>(rows));
  pool_.parallel_for(rows, 1, [&](std::int64_t row, std::int64_t) {
    const float *in = x.row<float>(row), *d = d_out.row<float>(row);
    const Moments m = moments[static_cast<std::size_t>(row)] = moments_of(in, dim, norm.eps);
    double mean = 0, along = 0;
    for (std::int64_t i = 0; i < dim; ++i) {
      mean += double{d[i]} * weight[i];
      along += double{d[i]} * weight[i] * (in[i] - m.mean) * m.inverse;
    }
    mean /= static_cast<double>(dim);
    along /= static_cast<double>(dim);
    for (std::int64_t i = 0; i < dim; ++i)
      d_x.row<float>(row)[i] += static_cast<float>(
          m.inverse * (double{d[i]} * weight[i] - mean - (in[i] - m.mean) * m.inverse * along));
  });
  if (d_bias) add_row(d_out, d_bias);
  if (!d_weight) return;
  expect_tensor("layer_norm gradient: d_weight", d_weight, DType::kF32, {dim});
  pool_.parallel_for(dim, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      double sum = 0;
      for (std::int64_t row = 0; row < rows; ++row) {
        const Moments& m = moments[static_cast<std::size_t>(row)];
        sum += double{d_out.row<float>(row)[i]} * (x.row<float>(row)[i] - m.mean) * m.inverse;
      }
      d_weight.as<float>()[i] += static_cast<float>(sum);
    }
  });
}

}  // namespace m3::reference
