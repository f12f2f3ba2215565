#include <algorithm>
#include <cmath>

#include "backend/reference/reference_backend.h"
#include "backend/reference/reference_gradients.h"
#include "base/random.h"
#include "ops/arguments.h"

namespace m3::reference {
namespace {

constexpr std::int64_t kElements = 4096;  // of one task

// Comparisons are written so that a NaN passes through (spec: text-model §3.7).
double swiglu_oai(double gate, double up, const SwiGlu& params) {
  const double limit = params.limit;
  const double g = limit > 0 && gate > limit ? limit : gate;
  const double u = limit > 0 ? std::clamp(up, -limit, limit) : up;
  return g / (1 + std::exp(-params.alpha * g)) * (u + params.beta);
}

}  // namespace

void ReferenceBackend::add(const Tensor& x, const Tensor& sum) {
  expect_addend(x, sum);
  const float* in = x.as<float>();
  float* out = sum.as<float>();
  const std::int64_t period = std::max<std::int64_t>(1, x.elements());
  pool_.parallel_for(sum.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) out[i] += in[i % period];
  });
}

void ReferenceBackend::copy(const Tensor& x, const Tensor& out) {
  expect_rank("copy: x", x, 2);
  expect_tensor("copy: out", out, DType::kF32, {x.dim(0), x.dim(1)});
  std::copy_n(x.as<float>(), x.elements(), out.as<float>());
}

void ReferenceBackend::gelu(const Tensor& x, const Tensor& bias, const Tensor& out) {
  expect_rank("gelu: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  if (bias) expect_tensor("gelu: bias", bias, DType::kF32, {dim});
  expect_tensor("gelu: out", out, DType::kF32, {rows, dim});
  pool_.parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * dim; i < end * dim; ++i) {
      const double y = double{x.as<float>()[i]} + (bias ? bias.as<float>()[i % dim] : 0);
      out.as<float>()[i] = static_cast<float>(y / 2 * (1 + std::erf(y / std::sqrt(2.0))));
    }
  });
}

void ReferenceBackend::gather_rows(const Tensor& x, const Tensor& rows, const Tensor& out) {
  expect_rank("gather_rows: x", x, 2);
  expect_tensor("gather_rows: rows", rows, DType::kI32, {rows.dim(0)});
  expect_tensor("gather_rows: out", out, DType::kF32, {rows.dim(0), x.dim(1)});
  expect_ids("gather_rows: rows", rows, x.dim(0));
  pool_.parallel_for(rows.dim(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      std::copy_n(x.row<float>(rows.as<std::int32_t>()[i]), x.dim(1), out.row<float>(i));
  });
}

void ReferenceBackend::concat(const Tensor& x, const Tensor& y, const Tensor& out) {
  expect_rank("concat: x", x, 2);
  expect_rank("concat: y", y, 2);
  const std::int64_t rows = x.dim(0), n = x.dim(1), m = y.dim(1);
  expect_tensor("concat: y", y, DType::kF32, {rows, m});
  expect_tensor("concat: out", out, DType::kF32, {rows, n + m});
  pool_.parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::copy_n(x.row<float>(row), n, out.row<float>(row));
      std::copy_n(y.row<float>(row), m, out.row<float>(row) + n);
    }
  });
}

void ReferenceBackend::swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params,
                              const Tensor& out) {
  expect_rank("swiglu: gate", gate, 2);
  expect_tensor("swiglu: up", up, DType::kF32, {gate.dim(0), gate.dim(1)});
  expect_tensor("swiglu: out", out, DType::kF32, {gate.dim(0), gate.dim(1)});
  const float* g = gate.as<float>();
  const float* u = up.as<float>();
  float* result = out.as<float>();
  pool_.parallel_for(gate.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      result[i] = static_cast<float>(swiglu_oai(g[i], u[i], params));
  });
}

void ReferenceGradients::zero(const Tensor& x) {
  std::fill_n(x.as<float>(), x.elements(), 0.0f);
}

void ReferenceGradients::swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params,
                                const Tensor& d_out, const Tensor& d_gate, const Tensor& d_up) {
  expect_rank("swiglu gradient: gate", gate, 2);
  for (const Tensor& other : {up, d_out, d_gate, d_up})
    expect_tensor("swiglu gradient", other, DType::kF32, {gate.dim(0), gate.dim(1)});
  const double limit = params.limit, alpha = params.alpha;
  pool_.parallel_for(gate.elements(), kElements, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const double gate_i = gate.as<float>()[i], up_i = up.as<float>()[i];
      const double d = d_out.as<float>()[i];
      const bool gate_cut = limit > 0 && gate_i > limit;
      const bool up_cut = limit > 0 && std::abs(up_i) > limit;
      const double g = gate_cut ? limit : gate_i;
      const double u = up_cut ? std::copysign(limit, up_i) : up_i;
      const double z = 1 / (1 + std::exp(-alpha * g));
      d_gate.as<float>()[i] =
          static_cast<float>(gate_cut ? 0 : d * (u + params.beta) * z * (1 + alpha * g * (1 - z)));
      d_up.as<float>()[i] = static_cast<float>(up_cut ? 0 : d * g * z);
    }
  });
}

void ReferenceGradients::add_row(const Tensor& d_out, const Tensor& d_row) {
  expect_rank("add gradient: d_out", d_out, 2);
  const std::int64_t rows = d_out.dim(0), dim = d_out.dim(1);
  expect_tensor("add gradient: d_row", d_row, DType::kF32, {dim});
  pool_.parallel_for(dim, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      double sum = 0;
      for (std::int64_t row = 0; row < rows; ++row) sum += d_out.row<float>(row)[i];
      d_row.as<float>()[i] += static_cast<float>(sum);
    }
  });
}

// Φ(y) + y φ(y) of the normal distribution.
void ReferenceGradients::gelu(const Tensor& x, const Tensor& bias, const Tensor& d_out,
                              const Tensor& d_x) {
  expect_rank("gelu gradient: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  if (bias) expect_tensor("gelu gradient: bias", bias, DType::kF32, {dim});
  expect_tensor("gelu gradient: d_out", d_out, DType::kF32, {rows, dim});
  expect_tensor("gelu gradient: d_x", d_x, DType::kF32, {rows, dim});
  pool_.parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * dim; i < end * dim; ++i) {
      const double y = double{x.as<float>()[i]} + (bias ? bias.as<float>()[i % dim] : 0);
      const double below = (1 + std::erf(y / std::sqrt(2.0))) / 2;
      const double density = std::exp(-y * y / 2) / std::sqrt(2 * std::acos(-1.0));
      d_x.as<float>()[i] = static_cast<float>(d_out.as<float>()[i] * (below + y * density));
    }
  });
}

void ReferenceGradients::dropout(const Tensor& x, const Dropout& dropout, float factor,
                                 const Tensor& out) {
  expect_rank("dropout: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  expect_tensor("dropout: out", out, DType::kF32, {rows, dim});
  const double kept = double{factor} / (1 - double{dropout.rate});
  pool_.parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * dim; i < end * dim; ++i) {
      const auto row = static_cast<std::uint64_t>(i / dim);
      const auto column = static_cast<std::uint64_t>(i % dim);
      const bool drops = uniform_at(dropout.key, row, column) < double{dropout.rate};
      out.as<float>()[i] = drops ? 0 : static_cast<float>(kept * x.as<float>()[i]);
    }
  });
}

void ReferenceGradients::split(const Tensor& both, const Tensor& x, const Tensor& y) {
  expect_rank("split: x", x, 2);
  expect_rank("split: y", y, 2);
  const std::int64_t rows = x.dim(0), n = x.dim(1), m = y.dim(1);
  expect_tensor("split: y", y, DType::kF32, {rows, m});
  expect_tensor("split: both", both, DType::kF32, {rows, n + m});
  for (std::int64_t row = 0; row < rows; ++row) {
    std::copy_n(both.row<float>(row), n, x.row<float>(row));
    std::copy_n(both.row<float>(row) + n, m, y.row<float>(row));
  }
}

}  // namespace m3::reference
