#include <algorithm>
#include <cmath>

#include "backend/reference/head_norm.h"
#include "backend/reference/reference_backend.h"
#include "backend/reference/reference_gradients.h"
#include "ops/arguments.h"

namespace m3::reference {

HeadNormRope::HeadNormRope(const HeadNorm& norm, std::int64_t dim)
    : norm_(norm), scratch_(static_cast<std::size_t>(dim)) {}

void HeadNormRope::apply(const float* x, std::int64_t row, float* out) {
  double* y = scratch_.data();
  if (norm_.weight)
    gemma_norm(x, norm_.weight.as<float>(), dim(), norm_.eps, y);
  else
    std::copy(x, x + dim(), y);
  const std::int64_t half = norm_.rotations.dim(1) / 2;
  const float* cosines = norm_.rotations.row<float>(row);
  const float* sines = cosines + half;
  for (std::int64_t i = 0; i < half; ++i) {
    const double first = y[i], second = y[i + half];
    y[i] = first * cosines[i] - second * sines[i];
    y[i + half] = second * cosines[i] + first * sines[i];
  }
  for (std::int64_t i = 0; i < dim(); ++i) out[i] = static_cast<float>(y[i]);
}

void ReferenceBackend::rope_table(const Tensor& positions, const Rope& rope, const Tensor& out) {
  const std::int64_t axes = expect_rope_table(positions, rope, out);
  const std::int64_t tokens = out.dim(0), frequencies = rope.inv_freq.dim(0);
  const std::int64_t half = axes * frequencies;
  for (std::int64_t t = 0; t < tokens; ++t) {
    float* row = out.row<float>(t);
    for (std::int64_t i = 0; i < half; ++i) {
      const auto position = static_cast<float>(positions.row<std::int64_t>(t)[i / frequencies]);
      // The product of two floats is a float: this is the one rounding that the contract asks for.
      const float angle = position * rope.inv_freq.as<float>()[i % frequencies];
      row[i] = static_cast<float>(rope.scale * std::cos(double{angle}));
      row[i + half] = static_cast<float>(rope.scale * std::sin(double{angle}));
    }
  }
}

void ReferenceBackend::norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& out) {
  expect_rank("norm_rope: x", x, 2);
  const std::int64_t rows = x.dim(0), width = x.dim(1);
  const std::int64_t dim = norm.weight.dim(0);
  expect_head_norm("norm_rope: norm", norm, rows, dim);
  expect_tensor("norm_rope: out", out, DType::kF32, {rows, width});
  M3_CHECK(width % dim == 0, "norm_rope: rows of {} are no heads of {}", width, dim);
  pool_.parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    HeadNormRope head(norm, dim);
    for (std::int64_t row = begin; row < end; ++row)
      for (std::int64_t i = 0; i < width; i += dim)
        head.apply(x.row<float>(row) + i, row, out.row<float>(row) + i);
  });
}

void ReferenceBackend::rotate(const Tensor& rotations, std::int64_t dim, const Tensor& x) {
  expect_rotations("rotate", rotations, dim, x);
  const std::int64_t rows = x.dim(0), width = x.dim(1), half = rotations.dim(1) / 2;
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* cosines = rotations.row<float>(row);
    const float* sines = cosines + half;
    for (float* head = x.row<float>(row); head < x.row<float>(row) + width; head += dim) {
      for (std::int64_t i = 0; i < half; ++i) {
        const double first = head[i], second = head[i + half];
        head[i] = static_cast<float>(first * cosines[i] - second * sines[i]);
        head[i + half] = static_cast<float>(second * cosines[i] + first * sines[i]);
      }
    }
  }
}

namespace {

// y turned back by the angles that rotated it: what the derivative of a rotation is.
void turn_back(const float* rotations, std::int64_t half, double* y) {
  for (std::int64_t i = 0; i < half; ++i) {
    const double cosine = rotations[i], sine = rotations[i + half];
    const double first = y[i], second = y[i + half];
    y[i] = first * cosine + second * sine;
    y[i + half] = second * cosine - first * sine;
  }
}

}  // namespace

void ReferenceGradients::rotate(const Tensor& rotations, std::int64_t dim, const Tensor& d) {
  expect_rotations("rotate gradient", rotations, dim, d);
  const std::int64_t rows = d.dim(0), width = d.dim(1), half = rotations.dim(1) / 2;
  pool_.parallel_for(rows, 1, [&](std::int64_t row, std::int64_t) {
    std::vector<double> head(static_cast<std::size_t>(dim));
    for (float* at = d.row<float>(row); at < d.row<float>(row) + width; at += dim) {
      std::copy_n(at, dim, head.begin());
      turn_back(rotations.row<float>(row), half, head.data());
      for (std::int64_t i = 0; i < dim; ++i)
        at[i] = static_cast<float>(head[static_cast<std::size_t>(i)]);
    }
  });
}

void ReferenceGradients::norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& d_out,
                                   const Tensor& d_x, const Tensor& d_weight) {
  expect_rank("norm_rope gradient: x", x, 2);
  const std::int64_t rows = x.dim(0), width = x.dim(1), dim = norm.weight.dim(0);
  const std::int64_t heads = width / dim, half = norm.rotations.dim(1) / 2;
  expect_head_norm("norm_rope gradient: norm", norm, rows, dim);
  M3_CHECK(heads * dim == width, "norm_rope gradient: rows of {} are no heads of {}", width, dim);
  expect_tensor("norm_rope gradient: d_out", d_out, DType::kF32, {rows, width});
  expect_tensor("norm_rope gradient: d_x", d_x, DType::kF32, {rows, width});
  // What each head adds to d_weight; summed afterwards in one order.
  std::vector<double> parts(static_cast<std::size_t>(d_weight ? rows * width : 0));
  pool_.parallel_for(rows, 1, [&](std::int64_t row, std::int64_t) {
    std::vector<double> d(static_cast<std::size_t>(dim));
    for (std::int64_t first = 0; first < width; first += dim) {
      const float* head = x.row<float>(row) + first;
      const double inverse = inverse_rms(head, dim, norm.eps);
      std::copy_n(d_out.row<float>(row) + first, dim, d.begin());
      turn_back(norm.rotations.row<float>(row), half, d.data());
      if (d_weight)
        for (std::int64_t i = 0; i < dim; ++i)
          parts[static_cast<std::size_t>(row * width + first + i)] =
              d[static_cast<std::size_t>(i)] * head[i] * inverse;
      gemma_norm_gradient(head, norm.weight.as<float>(), dim, inverse, d.data(), d.data());
      for (std::int64_t i = 0; i < dim; ++i)
        d_x.row<float>(row)[first + i] = static_cast<float>(d[static_cast<std::size_t>(i)]);
    }
  });
  if (!d_weight) return;
  expect_tensor("norm_rope gradient: d_weight", d_weight, DType::kF32, {dim});
  for (std::int64_t i = 0; i < dim; ++i) {
    double sum = 0;
    for (std::int64_t head = 0; head < rows * heads; ++head)
      sum += parts[static_cast<std::size_t>(head * dim + i)];
    d_weight.as<float>()[i] += static_cast<float>(sum);
  }
}

}  // namespace m3::reference
