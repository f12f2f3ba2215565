#include <cmath>

#include "backend/reference/head_norm.h"
#include "backend/reference/reference_backend.h"
#include "ops/arguments.h"

namespace m3::reference {

HeadNormRope::HeadNormRope(const HeadNorm& norm)
    : norm_(norm), scratch_(static_cast<std::size_t>(norm.weight.dim(0))) {}

void HeadNormRope::apply(const float* x, std::int64_t row, float* out) {
  double* y = scratch_.data();
  gemma_norm(x, norm_.weight.as<float>(), dim(), norm_.eps, y);
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
  const std::int64_t tokens = positions.dim(0), half = rope.inv_freq.dim(0);
  expect_tensor("rope_table: positions", positions, DType::kI64, {tokens});
  expect_tensor("rope_table: inv_freq", rope.inv_freq, DType::kF32, {half});
  expect_tensor("rope_table: out", out, DType::kF32, {tokens, 2 * half});
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto position = static_cast<float>(positions.as<std::int64_t>()[t]);
    float* row = out.row<float>(t);
    for (std::int64_t i = 0; i < half; ++i) {
      // The product of two floats is a float: this is the one rounding that the contract asks for.
      const float angle = position * rope.inv_freq.as<float>()[i];
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
    HeadNormRope head(norm);
    for (std::int64_t row = begin; row < end; ++row)
      for (std::int64_t i = 0; i < width; i += dim)
        head.apply(x.row<float>(row) + i, row, out.row<float>(row) + i);
  });
}

}  // namespace m3::reference
