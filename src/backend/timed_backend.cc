#include "backend/timed_backend.h"

namespace m3 {

template <typename Op>
void TimedBackend::timed(Stage stage, const Op& op) {
  if (!running_) return op();
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  op();
  backend_->synchronize();
  seconds_[stage] += std::chrono::duration<double>(Clock::now() - begin).count();
}

void TimedBackend::start() {
  backend_->synchronize();
  seconds_ = {};
  running_ = true;
}

PerStage<double> TimedBackend::stop() {
  running_ = false;
  return seconds_;
}

void TimedBackend::linear(const Tensor& x, std::span<const LinearOutput> outputs,
                          const Tensor& adapters) {
  const bool head = outputs.size() == 1 && outputs[0].linear == head_;
  timed(head ? Stage::kHead : Stage::kWeights, [&] { backend_->linear(x, outputs, adapters); });
}

void TimedBackend::grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                                  std::span<const GroupedOutput> outputs, const Beside& beside,
                                  const Tensor& adapters) {
  timed(Stage::kWeights,
        [&] { backend_->grouped_linear(x, dispatch, gather, outputs, beside, adapters); });
}

void TimedBackend::attention(const Tensor& q, const Rows& rows, const KvView& cache, float scale,
                             const Tensor* blocks, const Tensor& out, const Tensor& log_sums) {
  timed(Stage::kAttention,
        [&] { backend_->attention(q, rows, cache, scale, blocks, out, log_sums); });
}

void TimedBackend::segment_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                     const Tensor& segments, std::int64_t dim, float scale,
                                     const Tensor& out) {
  timed(Stage::kAttention,
        [&] { backend_->segment_attention(q, k, v, segments, dim, scale, out); });
}

void TimedBackend::select_blocks(const Tensor& q, const Rows& rows, const IndexView& cache,
                                 const Selection& selection, const Tensor& blocks) {
  timed(Stage::kIndex, [&] { backend_->select_blocks(q, rows, cache, selection, blocks); });
}

void TimedBackend::route(const Tensor& x, const Router& router, bool picked_before,
                         const Tensor& experts, const Tensor& weights) {
  timed(Stage::kRouter, [&] { backend_->route(x, router, picked_before, experts, weights); });
}

void TimedBackend::embed(const Matrix& table, const Tensor& ids, const Tensor& out) {
  timed(Stage::kRest, [&] { backend_->embed(table, ids, out); });
}

void TimedBackend::rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  timed(Stage::kRest, [&] { backend_->rms_norm(x, weight, eps, out); });
}

void TimedBackend::layer_norm(const Tensor& x, const LayerNorm& norm, const Tensor& out) {
  timed(Stage::kRest, [&] { backend_->layer_norm(x, norm, out); });
}

void TimedBackend::add(const Tensor& x, const Tensor& sum) {
  timed(Stage::kRest, [&] { backend_->add(x, sum); });
}

void TimedBackend::copy(const Tensor& x, const Tensor& out) {
  timed(Stage::kRest, [&] { backend_->copy(x, out); });
}

void TimedBackend::gather_rows(const Tensor& x, const Tensor& rows, const Tensor& out) {
  timed(Stage::kRest, [&] { backend_->gather_rows(x, rows, out); });
}

void TimedBackend::concat(const Tensor& x, const Tensor& y, const Tensor& out) {
  timed(Stage::kRest, [&] { backend_->concat(x, y, out); });
}

void TimedBackend::swiglu(const Tensor& gate, const Tensor& up, const SwiGlu& params,
                          const Tensor& out) {
  timed(Stage::kRest, [&] { backend_->swiglu(gate, up, params, out); });
}

void TimedBackend::gelu(const Tensor& x, const Tensor& bias, const Tensor& out) {
  timed(Stage::kRest, [&] { backend_->gelu(x, bias, out); });
}

void TimedBackend::rope_table(const Tensor& positions, const Rope& rope, const Tensor& out) {
  timed(Stage::kRest, [&] { backend_->rope_table(positions, rope, out); });
}

void TimedBackend::norm_rope(const Tensor& x, const HeadNorm& norm, const Tensor& out) {
  timed(Stage::kRest, [&] { backend_->norm_rope(x, norm, out); });
}

void TimedBackend::rotate(const Tensor& rotations, std::int64_t dim, const Tensor& x) {
  timed(Stage::kRest, [&] { backend_->rotate(rotations, dim, x); });
}

void TimedBackend::store_kv(const Tensor& k, const Tensor& v, const HeadNorm& norm,
                            const Rows& rows, const KvView& cache) {
  timed(Stage::kRest, [&] { backend_->store_kv(k, v, norm, rows, cache); });
}

void TimedBackend::store_index(const Tensor& k, const HeadNorm& norm, const Rows& rows,
                               const IndexView& cache) {
  timed(Stage::kRest, [&] { backend_->store_index(k, norm, rows, cache); });
}

void TimedBackend::dispatch(const Tensor& experts, const Dispatch& out) {
  timed(Stage::kRest, [&] { backend_->dispatch(experts, out); });
}

void TimedBackend::combine(const Tensor& y, const Dispatch& dispatch, const Tensor& weights,
                           float scale, const Tensor& shared, const Tensor& out) {
  timed(Stage::kRest, [&] { backend_->combine(y, dispatch, weights, scale, shared, out); });
}

}  // namespace m3
