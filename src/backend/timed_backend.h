// Another backend with a clock: what each stage of a step takes. The model's code stays bare.
#pragma once

#include <chrono>
#include <memory>

#include "ops/backend.h"
#include "ops/stage.h"

namespace m3 {

// Hands every call on. Between start() and stop() each op is also waited for and timed.
class TimedBackend final : public Backend {
 public:
  explicit TimedBackend(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  // Products with `head` alone are the head's; with any other weight, those of linear layers.
  void set_head(const Linear* head) { head_ = head; }
  void start();
  // Seconds since start().
  PerStage<double> stop();

  std::string_view name() const override { return backend_->name(); }
  std::string_view isa() const override { return backend_->isa(); }
  Space space() const override { return backend_->space(); }
  CacheFormat cache_format() const override { return backend_->cache_format(); }
  void synchronize() override { backend_->synchronize(); }
  GradientOps* gradients() override { return backend_->gradients(); }  // not timed
  std::string_view packed_layout() const override { return backend_->packed_layout(); }
  std::int64_t packed_bytes(const Matrix& w) const override { return backend_->packed_bytes(w); }
  void pack(const Matrix& w, std::byte* out) override { backend_->pack(w, out); }

  void embed(const Matrix& table, const Tensor& ids, const Tensor& out) override;
  void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) override;
  void layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& out) override;
  void add(const Tensor& x, const Tensor& sum) override;
  void copy(const Tensor& x, const Tensor& out) override;
  void gather_rows(const Tensor& x, const Tensor& rows, const Tensor& out) override;
  void concat(const Tensor& x, const Tensor& y, const Tensor& out) override;
  void linear(const Tensor& x, std::span<const LinearOutput> outputs,
              const Tensor& adapters) override;
  void swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params,
              const Tensor& out) override;
  void gelu(const Tensor& x, const Tensor& bias, const Tensor& out) override;
  void rope_table(const Tensor& positions, const Rope& rope, const Tensor& out) override;
  void norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& out) override;
  void rotate(const Tensor& rotations, std::int64_t dim, const Tensor& x) override;
  void store_kv(const Tensor& k, const Tensor& v, const HeadNorm& norm, const Rows& rows,
                const KvView& cache) override;
  void store_index(const Tensor& k, const HeadNorm& norm, const Rows& rows,
                   const IndexView& cache) override;
  void select_blocks(const Tensor& q, const Rows& rows, const IndexView& cache,
                     const Selection& selection, const Tensor& blocks) override;
  void attention(const Tensor& q, const Rows& rows, const KvView& cache, float scale,
                 const Tensor* blocks, const Tensor& out, const Tensor& log_sums) override;
  void segment_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& segments,
                         std::int64_t dim, float scale, const Tensor& out) override;
  void route(const Tensor& x, const Router& router, bool picked_before, const Tensor& experts,
             const Tensor& weights) override;
  void dispatch(const Tensor& experts, const Dispatch& out) override;
  void grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                      std::span<const GroupedOutput> outputs, const Beside& beside,
                      const Tensor& adapters) override;
  void combine(const Tensor& y, const Dispatch& dispatch, const Tensor& weights, float scale,
               const Tensor& shared, const Tensor& out) override;

 private:
  template <typename Op>
  void timed(Stage stage, const Op& op);

  std::unique_ptr<Backend> backend_;
  const Linear* head_ = nullptr;
  bool running_ = false;
  PerStage<double> seconds_;
};

}  // namespace m3
