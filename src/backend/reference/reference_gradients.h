// The derivatives, defined as the ops are: in double, rounded once where a result is stored. One
// file per group, beside the op.
#pragma once

#include "base/thread_pool.h"
#include "ops/gradients.h"

namespace m3::reference {

// Reads any cache, so that a backend without derivatives of its own may use these.
class ReferenceGradients final : public GradientOps {
 public:
  // `pool` outlives it.
  explicit ReferenceGradients(ThreadPool& pool) : pool_(pool) {}

  // embed.cc
  void embed(const Tensor& ids, const Tensor& d_out, const Tensor& d_table) override;

  // elementwise.cc
  void zero(const Tensor& x) override;
  void swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params, const Tensor& d_out,
              const Tensor& d_gate, const Tensor& d_up) override;
  void add_row(const Tensor& d_out, const Tensor& d_row) override;
  void gelu(const Tensor& x, const Tensor& bias, const Tensor& d_out, const Tensor& d_x) override;
  void dropout(const Tensor& x, const Dropout& dropout, float factor, const Tensor& out) override;
  void split(const Tensor& both, const Tensor& x, const Tensor& y) override;

  // norm.cc
  void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& d_out,
                const Tensor& d_x, const Tensor& d_weight) override;
  void layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& d_out, const Tensor& d_x,
                  const Tensor& d_weight, const Tensor& d_bias) override;

  // rope.cc
  void rotate(const Tensor& rotations, std::int64_t dim, const Tensor& d) override;
  void norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& d_out, const Tensor& d_x,
                 const Tensor& d_weight) override;

  // linear.cc
  void linear(const Tensor& x, std::span<const LinearGradient> layers, const Tensor& d_x) override;

  // index_gradient.cc
  void divergence(const Tensor& index_q, const Rows& rows, const IndexView& index,
                  const Selection& selection, const Tensor& blocks,
                  const AttentionScores& attention, float scale, const RankingMeasures& measures,
                  const Tensor& d_q, const Tensor& d_k) override;

  // attention.cc
  void attention(const Tensor& q, const Rows& rows, const KvView& cache, float scale,
                 const Tensor* blocks, const Tensor& out, const Tensor& log_sums,
                 const Tensor& d_out, const Tensor& d_q, const Tensor& d_k,
                 const Tensor& d_v) override;

  // segment_attention.cc
  void segment_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& segments,
                         std::int64_t dim, float scale, const Tensor& out, const Tensor& d_out,
                         const Tensor& d_q, const Tensor& d_k, const Tensor& d_v) override;

  // moe.cc
  void route(const Tensor& x, const Router& router, const Tensor& experts, const Tensor& d_weights,
             const Tensor& d_x, const Tensor& d_gate) override;
  void balance(const Tensor& x, const Router& router, const Tensor& experts, float scale,
               const Tensor& loss, const Tensor& d_x, const Tensor& d_gate) override;
  void weigh(const Tensor& f, const Dispatch& dispatch, const Tensor& weights, float scale,
             const Tensor& d_f, const Tensor& d_weights) override;
  void weighted(const Tensor& f, const Dispatch& dispatch, const Tensor& weights, float scale,
                const Tensor& out) override;
  void grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                      std::span<const GroupedGradient> layers, const Tensor& d_x) override;
  void undispatch(const Tensor& d, const Dispatch& dispatch, const Tensor& d_x) override;

  // loss.cc
  void cross_entropy(const Tensor& logits, const Tensor& labels, float scale,
                     const Tensor& losses) override;

 private:
  ThreadPool& pool_;
};

}  // namespace m3::reference
