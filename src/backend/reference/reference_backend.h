// The definition: plain loops, double accumulation, no rounding beyond float32 storage.
//
// Every op sums in double and rounds once, to float32, where it stores its result. Each output is
// computed by one thread in one order, so neither the number of threads nor the other rows of a
// call can change it. One file per group of ops, under the same names as in the other backends.
#pragma once

#include <memory>

#include "backend/reference/reference_gradients.h"
#include "base/thread_pool.h"
#include "ops/backend.h"

namespace m3 {

// `pool` outlives the backend.
std::unique_ptr<Backend> make_reference_backend(ThreadPool& pool);

namespace reference {

class ReferenceBackend final : public Backend {
 public:
  explicit ReferenceBackend(ThreadPool& pool) : pool_(pool), gradients_(pool) {}

  std::string_view name() const override { return "reference"; }
  std::string_view isa() const override { return ""; }
  CacheFormat cache_format() const override { return {}; }
  GradientOps* gradients() override { return &gradients_; }

  // embed.cc
  void embed(const Matrix& table, const Tensor& ids, const Tensor& out) override;

  // elementwise.cc
  void add(const Tensor& x, const Tensor& sum) override;
  void copy(const Tensor& x, const Tensor& out) override;
  void gelu(const Tensor& x, const Tensor& bias, const Tensor& out) override;
  void gather_rows(const Tensor& x, const Tensor& rows, const Tensor& out) override;
  void concat(const Tensor& x, const Tensor& y, const Tensor& out) override;
  void swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params,
              const Tensor& out) override;

  // norm.cc
  void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) override;
  void layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& out) override;

  // rope.cc
  void rope_table(const Tensor& positions, const Rope& rope, const Tensor& out) override;
  void norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& out) override;
  void rotate(const Tensor& rotations, std::int64_t dim, const Tensor& x) override;

  // linear.cc
  void linear(const Tensor& x, std::span<const LinearOutput> outputs,
              const Tensor& adapters) override;

  // index.cc
  void store_index(const Tensor& k, const HeadNorm& norm, const Rows& rows,
                   const IndexView& cache) override;
  void select_blocks(const Tensor& q, const Rows& rows, const IndexView& cache,
                     const Selection& selection, const Tensor& blocks) override;

  // attention.cc
  void store_kv(const Tensor& k, const Tensor& v, const HeadNorm& norm, const Rows& rows,
                const KvView& cache) override;
  void attention(const Tensor& q, const Rows& rows, const KvView& cache, float scale,
                 const Tensor* blocks, const Tensor& out, const Tensor& log_sums) override;

  // segment_attention.cc
  void segment_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& segments,
                         std::int64_t dim, float scale, const Tensor& out) override;

  // moe.cc
  void route(const Tensor& x, const Router& router, bool picked_before, const Tensor& experts,
             const Tensor& weights) override;
  void dispatch(const Tensor& experts, const Dispatch& out) override;
  void grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                      std::span<const GroupedOutput> outputs, const Beside& beside,
                      const Tensor& adapters) override;
  void combine(const Tensor& y, const Dispatch& dispatch, const Tensor& weights, float scale,
               const Tensor& shared, const Tensor& out) override;

 private:
  // After all products: gates become swiglu(gate, up).
  template <typename Output>
  void apply_gates(std::span<const Output> outputs) {
    for (std::size_t i = 0; i < outputs.size(); ++i)
      if (outputs[i].swiglu != nullptr)
        swiglu(outputs[i].out, outputs[i + 1].out, *outputs[i].swiglu, outputs[i].activated());
  }

  ThreadPool& pool_;
  ReferenceGradients gradients_;
};

}  // namespace reference
}  // namespace m3
