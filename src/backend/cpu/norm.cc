// Norms in float32. Limited by reading x, after the first time from the cache.
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

}  // namespace m3::cpu
