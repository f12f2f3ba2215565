// What every op checks at its door. A failure is a mistake of the calling code, so it aborts with
// the op, the argument and the values.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>

#include "base/check.h"
#include "ops/backend.h"
#include "ops/cache.h"
#include "ops/linear.h"
#include "tensor/matrix.h"
#include "tensor/tensor.h"

namespace m3 {

struct AttentionScores;  // ops/gradients.h
struct RankingMeasures;  // ops/gradients.h

// `what` names op and argument, as in "rms_norm: weight".
void expect_tensor(std::string_view what, const Tensor& tensor, DType dtype,
                   std::initializer_list<std::int64_t> shape);

// An F32 tensor of the given number of axes.
void expect_rank(std::string_view what, const Tensor& tensor, int rank);

// Tensors of the shapes that `matrix` promises.
void expect_matrix(std::string_view what, const Matrix& matrix, std::int64_t rows,
                   std::int64_t cols);

// Every entry of an I32 tensor lies in [least, limit).
void expect_ids(std::string_view what, const Tensor& ids, std::int64_t limit,
                std::int64_t least = 0);

// `count` rows, each at a slot >= 0 of a sequence that `pages` has; a mask of all their slots.
void expect_rows(std::string_view what, const Rows& rows, std::int64_t count);

// F32 or BF16, and strides that hold a page.
void expect_cache(std::string_view what, const KvView& cache);
void expect_cache(std::string_view what, const IndexView& cache);

// A weight [N, cols] for some N, and addends that fit it.
void expect_linear(std::string_view what, const Linear& linear, std::int64_t cols);

// Empty, or I32 [rows], each the number of one of a linear's addends, or -1. Returns them; null: it
// is empty.
const std::int32_t* expect_adapters(std::string_view what, const Tensor& adapters,
                                    std::int64_t rows, const Linear& linear);
// The same of tokens, for all experts of outputs.
const std::int32_t* expect_adapters(std::string_view what, const Tensor& adapters,
                                    const Dispatch& dispatch,
                                    std::span<const GroupedOutput> outputs);

// Every gate has an up of its shape behind it, which is no gate. Outputs are linear's or
// grouped_linear's.
template <typename Output>
void expect_gates(std::string_view what, std::span<const Output> outputs) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].swiglu == nullptr) continue;
    M3_CHECK(i + 1 < outputs.size() && outputs[i + 1].swiglu == nullptr,
             "{}: output {} is a gate, and no up follows", what, i);
    for (const Tensor& other : {outputs[i + 1].out, outputs[i].activated()})
      expect_tensor(what, other, DType::kF32, {outputs[i].out.dim(0), outputs[i].out.dim(1)});
  }
}

// The norm of heads of `dim`, and rotations of `rows` rows.
void expect_head_norm(std::string_view what, const HeadNorm& norm, std::int64_t rows,
                      std::int64_t dim);
// The same where the norm may be missing.
void expect_head_rotation(std::string_view what, const HeadNorm& norm, std::int64_t rows,
                          std::int64_t dim);

// Positions [tokens] or [tokens, axes] I64, and a table [tokens, 2 * axes * n] for n frequencies.
// Returns the number of axes.
std::int64_t expect_rope_table(const Tensor& positions, const Rope& rope, const Tensor& out);

// Rotations of every row of x [rows, heads * dim].
void expect_rotations(std::string_view what, const Tensor& rotations, std::int64_t dim,
                      const Tensor& x);

// Offsets that rise from 0 to `rows`, and four tensors [rows, heads * dim]. Returns the number of
// segments.
std::int64_t expect_segments(const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& segments, std::int64_t dim, const Tensor& out);

// Of GradientOps::undispatch().
void expect_undispatch(const Tensor& d, const Dispatch& dispatch, const Tensor& d_x);

// Of GradientOps::cross_entropy(), whatever the labels are.
void expect_cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& losses);

// Those of GradientOps::divergence(), without the scale.
void expect_divergence(const Tensor& index_q, const Rows& rows, const IndexView& index,
                       const Selection& selection, const Tensor& blocks,
                       const AttentionScores& attention, const RankingMeasures& measures,
                       const Tensor& d_q, const Tensor& d_k);

// An addend for `sum`: its shape, or one row of it.
void expect_addend(const Tensor& x, const Tensor& sum);

// The shapes of a dispatch fit each other. Returns the number of experts.
std::int64_t expect_dispatch(std::string_view what, const Dispatch& dispatch);

}  // namespace m3
