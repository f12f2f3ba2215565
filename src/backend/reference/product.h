// The matrix product that linear, grouped_linear and route share.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "ops/linear.h"

namespace m3::reference {

// out[r, n] = Σ_k W[n, k] inputs[r][k] (+ scale * Σ_j B[n, j] Σ_k A[j, k] inputs[r][k]), all in
// double, rounded once. out [inputs, N]. A row's sums are the same whatever the other inputs are.
void product(ThreadPool& pool, const Linear& linear, std::span<const float* const> inputs,
             float* out);

// Pointers to the rows of an F32 tensor [rows, dim].
std::vector<const float*> row_pointers(const Tensor& x);

}  // namespace m3::reference
