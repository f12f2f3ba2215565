// Additions, copies and the activation. Limited by memory, swiglu by exp.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_gradients.h"
#include "backend/cpu/cpu_ops.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

// Elements of one task: much longer than handing it out takes.
constexpr std::int64_t kGrain = 8192;

}  // namespace

void CpuBackend::add(const Tensor& x, const Tensor& sum) {
  expect_addend(x, sum);
  if (x.rank < sum.rank) {
    for_each_task(pool_, sum.dim(0), [&](std::int64_t row) {
      kernels_.add(x.as<float>(), x.elements(), sum.row<float>(row));
    });
    return;
  }
  for_ranges(pool_, sum.elements(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    kernels_.add(x.as<float>() + begin, end - begin, sum.as<float>() + begin);
  });
}

void CpuBackend::copy(const Tensor& x, const Tensor& out) {
  expect_rank("copy: x", x, 2);
  expect_tensor("copy: out", out, DType::kF32, {x.dim(0), x.dim(1)});
  if (x.elements() > 0) std::memcpy(out.data, x.data, static_cast<std::size_t>(x.bytes()));
}

void CpuBackend::gelu(const Tensor& x, const Tensor& bias, const Tensor& out) {
  expect_rank("gelu: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  if (bias) expect_tensor("gelu: bias", bias, DType::kF32, {dim});
  const float* added = bias ? bias.as<float>() : nullptr;
  expect_tensor("gelu: out", out, DType::kF32, {rows, dim});
  for_each_task(pool_, rows, [&](std::int64_t row) {
    kernels_.gelu(x.row<float>(row), added, dim, out.row<float>(row));
  });
}

void CpuBackend::gather_rows(const Tensor& x, const Tensor& rows, const Tensor& out) {
  expect_rank("gather_rows: x", x, 2);
  expect_rank("gather_rows: out", out, 2);
  expect_tensor("gather_rows: out", out, DType::kF32, {out.dim(0), x.dim(1)});
  expect_tensor("gather_rows: rows", rows, DType::kI32, {out.dim(0)});
  expect_ids("gather_rows: rows", rows, x.dim(0));
  const auto bytes = static_cast<std::size_t>(x.dim(1)) * sizeof(float);
  for_each_task(pool_, out.dim(0), [&](std::int64_t i) {
    std::memcpy(out.row<float>(i), x.row<float>(rows.as<std::int32_t>()[i]), bytes);
  });
}

void CpuBackend::concat(const Tensor& x, const Tensor& y, const Tensor& out) {
  expect_rank("concat: x", x, 2);
  expect_rank("concat: y", y, 2);
  const std::int64_t rows = x.dim(0), n = x.dim(1), m = y.dim(1);
  expect_tensor("concat: y", y, DType::kF32, {rows, m});
  expect_tensor("concat: out", out, DType::kF32, {rows, n + m});
  for_each_task(pool_, rows, [&](std::int64_t row) {
    std::copy_n(x.row<float>(row), n, out.row<float>(row));
    std::copy_n(y.row<float>(row), m, out.row<float>(row) + n);
  });
}

void CpuBackend::swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params,
                        const Tensor& out) {
  expect_rank("swiglu: gate", gate, 2);
  expect_tensor("swiglu: up", up, DType::kF32, {gate.dim(0), gate.dim(1)});
  expect_tensor("swiglu: out", out, DType::kF32, {gate.dim(0), gate.dim(1)});
  const SwiGluParams p{params.alpha, params.limit, params.beta};
  for_ranges(pool_, gate.elements(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    kernels_.swiglu(gate.as<float>() + begin, up.as<float>() + begin, p, end - begin,
                    out.as<float>() + begin);
  });
}

void CpuGradients::swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params,
                          const Tensor& d_out, const Tensor& d_gate, const Tensor& d_up) {
  expect_rank("swiglu gradient: gate", gate, 2);
  for (const Tensor& other : {up, d_out, d_gate, d_up})
    expect_tensor("swiglu gradient", other, DType::kF32, {gate.dim(0), gate.dim(1)});
  const SwiGluParams p{params.alpha, params.limit, params.beta};
  for_ranges(pool_, gate.elements(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    kernels_.swiglu_gradient(gate.as<float>() + begin, up.as<float>() + begin, p,
                             d_out.as<float>() + begin, end - begin, d_gate.as<float>() + begin,
                             d_up.as<float>() + begin);
  });
}

// With Φ and φ the normal distribution and its density: gelu(y) = y Φ(y), gelu'(y) = Φ(y) + y φ(y).
void CpuGradients::gelu(const Tensor& x, const Tensor& bias, const Tensor& d_out,
                        const Tensor& d_x) {
  constexpr float kDensityAtZero = 0.39894228f;
  expect_rank("gelu gradient: x", x, 2);
  const std::int64_t rows = x.dim(0), dim = x.dim(1);
  if (bias) expect_tensor("gelu gradient: bias", bias, DType::kF32, {dim});
  const float* added = bias ? bias.as<float>() : nullptr;
  for (const Tensor& other : {d_out, d_x})
    expect_tensor("gelu gradient", other, DType::kF32, {rows, dim});
  tasks_.reserve(3 * TaskScratch::bytes_for<float>(dim));
  for_each_task(pool_, rows, [&](std::int64_t row) {
    TaskScratch::Slice slice(tasks_);
    float *y = slice.take<float>(dim), *activated = slice.take<float>(dim);
    float* gauss = slice.take<float>(dim);
    kernels_.scale_add(x.row<float>(row), 1, added, dim, y);
    kernels_.gelu(y, nullptr, dim, activated);
    for (std::int64_t i = 0; i < dim; ++i) gauss[i] = -0.5f * y[i] * y[i];
    kernels_.exp(gauss, dim, gauss);
    const float* given = d_out.row<float>(row);
    float* to = d_x.row<float>(row);
    for (std::int64_t i = 0; i < dim; ++i) {
      const float below = y[i] == 0 ? 0.5f : activated[i] / y[i];
      to[i] = given[i] * (below + y[i] * gauss[i] * kDensityAtZero);
    }
  });
}

}  // namespace m3::cpu
