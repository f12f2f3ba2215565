// The matrix product that linear, grouped_linear and route share.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "ops/linear.h"
#include "tensor/tensor.h"

namespace m3::reference {

// out[r, n] = Σ_k W[n, k] inputs[r][k] (+ scale * Σ_j B[n, j] Σ_k A[j, k] inputs[r][k]), all in
// double, rounded once. out [inputs, N]. A row's sums are the same whatever the other inputs are.
// `adapters` [inputs]: the linear's addend that each adds; null: those of linear.addends add none.
void product(ThreadPool& pool, const Linear& linear, std::span<const float* const> inputs,
             float* out, const std::int32_t* adapters = nullptr);

// A layer, and the derivative by each of its output rows.
struct BackwardLayer {
  const Linear* linear;
  std::span<const float* const> d_out;
};

// d_x[r] = Σ d_out[r] (W + scale * B A) over all layers, in their order, in double, rounded once.
// d_x [rows, cols].
void input_gradient(ThreadPool& pool, std::span<const BackwardLayer> layers, std::int64_t cols,
                    float* d_x);

// d_w[n] += Σ_r d_out[r][n] x[r], r ascending. d_w [N, K] F32.
void weight_gradient(ThreadPool& pool, std::span<const float* const> d_out,
                     std::span<const float* const> x, const Tensor& d_w);

// d_b += scale * d_outᵀ (x Aᵀ), d_a += (scale * d_out B)ᵀ x, rows ascending.
void low_rank_gradient(ThreadPool& pool, const LowRank& addend, std::span<const float* const> d_out,
                       std::span<const float* const> x, const Tensor& d_a, const Tensor& d_b);

// Pointers to the rows of an F32 tensor [rows, dim].
std::vector<const float*> row_pointers(const Tensor& x);

}  // namespace m3::reference
