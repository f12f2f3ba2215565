// The derivatives of this backend's ops: products of numbers rounded to bfloat16, summed in
// float32. What has no kernel here, and takes no time, is the reference's, in double.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/cpu/kernels.h"
#include "backend/cpu/scratch.h"
#include "backend/reference/reference_gradients.h"

namespace m3::cpu {

// Linear layers of the same rows of x, on their way back.
struct LinearsBack {
  std::span<const float* const> x;  // [rows], each [K]
  float* d_x = nullptr;             // [rows, K]; null: nobody needs it
  std::vector<LinearGradient> layers;
  bool adds = false;  // to d_x
};

class CpuGradients final : public GradientOps {
 public:
  // Both outlive it.
  CpuGradients(const Kernels& kernels, ThreadPool& pool)
      : kernels_(kernels), pool_(pool), reference_(pool), tasks_(pool.threads()) {}

  // linear_gradient.cc
  void linear(const Tensor& x, std::span<const LinearGradient> layers, const Tensor& d_x) override;
  void grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                      std::span<const GroupedGradient> layers, const Tensor& d_x) override;

  // attention_gradient.cc
  void attention(const Tensor& q, const Rows& rows, const KvView& cache, float scale,
                 const Tensor* blocks, const Tensor& out, const Tensor& log_sums,
                 const Tensor& d_out, const Tensor& d_q, const Tensor& d_k,
                 const Tensor& d_v) override;

  // segment_attention_gradient.cc
  void segment_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& segments,
                         std::int64_t dim, float scale, const Tensor& out, const Tensor& d_out,
                         const Tensor& d_q, const Tensor& d_k, const Tensor& d_v) override;

  // norm.cc
  void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& d_out,
                const Tensor& d_x, const Tensor& d_weight) override;
  void layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& d_out, const Tensor& d_x,
                  const Tensor& d_weight, const Tensor& d_bias) override;
  void add_row(const Tensor& d_out, const Tensor& d_row) override;

  // rope.cc
  void norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& d_out, const Tensor& d_x,
                 const Tensor& d_weight) override;

  // moe.cc
  void route(const Tensor& x, const Router& router, const Tensor& experts, const Tensor& d_weights,
             const Tensor& d_x, const Tensor& d_gate) override;
  void balance(const Tensor& x, const Router& router, const Tensor& experts, float scale,
               const Tensor& loss, const Tensor& d_x, const Tensor& d_gate) override;
  void weigh(const Tensor& f, const Dispatch& dispatch, const Tensor& weights, float scale,
             const Tensor& d_f, const Tensor& d_weights) override;
  void weighted(const Tensor& f, const Dispatch& dispatch, const Tensor& weights, float scale,
                const Tensor& out) override;
  void undispatch(const Tensor& d, const Dispatch& dispatch, const Tensor& d_x) override;

  // elementwise.cc
  void swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params, const Tensor& d_out,
              const Tensor& d_gate, const Tensor& d_up) override;
  void gelu(const Tensor& x, const Tensor& bias, const Tensor& d_out, const Tensor& d_x) override;
  // divergence.cc
  void divergence(const Tensor& index_q, const Rows& rows, const IndexView& index,
                  const Selection& selection, const Tensor& blocks,
                  const AttentionScores& attention, float scale, const RankingMeasures& measures,
                  const Tensor& d_q, const Tensor& d_k) override;
  // loss.cc
  void cross_entropy(const Tensor& logits, const Tensor& labels, float scale,
                     const Tensor& losses) override;

  // The reference's.
  void zero(const Tensor& x) override { reference_.zero(x); }
  void embed(const Tensor& ids, const Tensor& d_out, const Tensor& d_table) override {
    reference_.embed(ids, d_out, d_table);
  }
  void rotate(const Tensor& rotations, std::int64_t dim, const Tensor& d) override {
    reference_.rotate(rotations, dim, d);
  }
  void dropout(const Tensor& x, const Dropout& dropout, float factor, const Tensor& out) override {
    reference_.dropout(x, dropout, factor, out);
  }
  void split(const Tensor& both, const Tensor& x, const Tensor& y) override {
    reference_.split(both, x, y);
  }

 private:
  // linear_gradient.cc: one layer, whose d_x is added to.
  void add_linear(const Tensor& x, const LinearGradient& layer, const Tensor& d_x);
  // norm.cc: body(row, where its share of d_weight [dim] is added; null: nowhere) for all rows.
  void for_rows_and_weight(std::int64_t rows, const Tensor& d_weight, std::int64_t dim,
                           const std::function<void(std::int64_t, float*)>& body);

  const Kernels& kernels_;
  ThreadPool& pool_;
  reference::ReferenceGradients reference_;
  TaskScratch tasks_;
  OpArena arena_;
  OpScratch d_logits_;
};

}  // namespace m3::cpu
