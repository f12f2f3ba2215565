#include "train/layer_gradient.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "ops/dropout.h"
#include "tensor/layout.h"

namespace m3 {
namespace {

GradientOps& gradients_of(Backend& backend) {
  M3_CHECK(backend.gradients() != nullptr, "backend {} has no derivatives", backend.name());
  return *backend.gradients();
}

}  // namespace

LayerGradient::LayerGradient(const Model& model, const WeightGradients& weights,
                             std::int64_t tokens)
    : model_(model),
      weights_(weights),
      backend_(model.backend()),
      ops_(gradients_of(model.backend())) {
  buffer_ = lay_out(scratch_.placements(model.config(), tokens));
}

std::int64_t LayerGradient::bytes_for(const Config& config, std::int64_t tokens) {
  Scratch nowhere;
  return bytes_of(nowhere.placements(config, tokens));
}

std::vector<Placement> LayerGradient::Scratch::placements(const Config& c, std::int64_t tokens) {
  const std::int64_t inner = std::max(c.dense_inner, c.shared_inner);
  const std::int64_t picks = tokens * c.experts_per_token;
  std::vector<Placement> placements = {{&d_weights, DType::kF32, {tokens, c.experts_per_token}},
                                       {&balance, DType::kF32, {1}}};
  const auto add = [&](std::initializer_list<Tensor*> tensors, std::int64_t rows,
                       std::int64_t cols) {
    for (Tensor* tensor : tensors) placements.push_back({tensor, DType::kF32, {rows, cols}});
  };
  add({&normed, &d_normed, &branch}, tokens, c.hidden);
  add({&d_attended, &d_q}, tokens, c.heads * c.head_dim);
  add({&d_k, &d_v}, tokens, c.kv_heads * c.head_dim);
  add({&d_product, &d_gate, &d_up}, tokens, inner);
  add({&dispatched}, picks, c.hidden);
  add({&d_expert_product, &d_expert_gate, &d_expert_up}, picks, c.expert_inner);
  return placements;
}

LayerGradient::Scratch LayerGradient::Scratch::first(const Config& config,
                                                     std::int64_t rows) const {
  Scratch part = *this;
  narrow(part.placements(config, rows));
  return part;
}

void LayerGradient::run(std::int64_t layer, const KeptLayer& kept, const Rows& rows,
                        const KvView& cache, const Balance& balance, const Tensor& d_hidden) {
  const LayerWeights& w = model_.layer_weights(layer);
  const Scratch s = scratch_.first(model_.config(), d_hidden.dim(0));
  feed_forward(w, kept, balance, s, d_hidden);
  attention(w, kept, rows, cache, s, d_hidden);
}

void LayerGradient::attention(const LayerWeights& layer, const KeptLayer& kept, const Rows& rows,
                              const KvView& cache, const Scratch& s, const Tensor& d_hidden) {
  const AttentionWeights& w = layer.attention;
  const Activations& a = kept.a;
  const float eps = model_.eps();
  backend_.rms_norm(kept.input, layer.attention_norm, eps, s.normed);

  const LinearGradient o[] = {weights_.of(w.o, d_hidden)};
  dropped_linear_gradient(backend_, a.attended, o, s.d_attended);
  const float scale = 1.0f / std::sqrt(static_cast<float>(model_.config().head_dim));
  ops_.attention(a.q_rotated, rows, cache, scale, layer.indexer ? &a.blocks : nullptr, a.attended,
                 a.log_sums, s.d_attended, s.d_q, s.d_k, s.d_v);
  ops_.norm_rope(a.q, {w.q_norm, eps, a.rotations}, s.d_q, s.d_q, weights_.of(w.q_norm));
  ops_.norm_rope(a.k, {w.k_norm, eps, a.rotations}, s.d_k, s.d_k, weights_.of(w.k_norm));
  const LinearGradient qkv[] = {weights_.of(w.q, s.d_q), weights_.of(w.k, s.d_k),
                                weights_.of(w.v, s.d_v)};
  dropped_linear_gradient(backend_, s.normed, qkv, s.d_normed);
  ops_.rms_norm(kept.input, layer.attention_norm, eps, s.d_normed, d_hidden,
                weights_.of(layer.attention_norm));
}

void LayerGradient::feed_forward(const LayerWeights& layer, const KeptLayer& kept,
                                 const Balance& balance, const Scratch& s, const Tensor& d_hidden) {
  const float eps = model_.eps();
  backend_.rms_norm(kept.middle, layer.ffn_norm, eps, s.normed);
  if (layer.mlp)
    mlp(*layer.mlp, model_.config().dense_inner, kept.a, s, d_hidden, s.d_normed);
  else
    moe(*layer.moe, kept.a, balance, s, d_hidden);
  ops_.rms_norm(kept.middle, layer.ffn_norm, eps, s.d_normed, d_hidden,
                weights_.of(layer.ffn_norm));
}

void LayerGradient::mlp(const MlpWeights& w, std::int64_t inner, const Activations& a,
                        const Scratch& s, const Tensor& d_out, const Tensor& d_x) {
  const auto narrow = [&](const Tensor& wide) { return shaped(wide, d_out.dim(0), inner); };
  const Tensor d_product = narrow(s.d_product), d_gate = narrow(s.d_gate), d_up = narrow(s.d_up);
  const LinearGradient down[] = {weights_.of(w.down, d_out)};
  dropped_linear_gradient(backend_, narrow(a.product), down, d_product);
  ops_.swiglu(narrow(a.gate), narrow(a.up), model_.config().swiglu, d_product, d_gate, d_up);
  const LinearGradient gate_up[] = {weights_.of(w.gate, d_gate), weights_.of(w.up, d_up)};
  dropped_linear_gradient(backend_, s.normed, gate_up, d_x);
}

// The weights of the experts are taken in front of the down projection (GradientOps::weigh).
void LayerGradient::moe(const MoeWeights& w, const Activations& a, const Balance& balance,
                        const Scratch& s, const Tensor& d_out) {
  const Config& config = model_.config();
  const auto scale = static_cast<float>(config.routed_scale);
  WeightGradients::ExpertLists list, other;

  backend_.gather_rows(d_out, a.dispatch.rows, s.dispatched);
  ops_.weighted(a.expert_product, a.dispatch, a.expert_weights, scale, s.d_expert_gate);
  const GroupedGradient down[] = {weights_.of(w.down, s.dispatched, list)};
  ops_.grouped_linear(s.d_expert_gate, a.dispatch, /*gather=*/false, down, s.d_expert_product);
  ops_.weigh(a.expert_product, a.dispatch, a.expert_weights, scale, s.d_expert_product,
             s.d_weights);
  ops_.swiglu(a.expert_gate, a.expert_up, config.swiglu, s.d_expert_product, s.d_expert_gate,
              s.d_expert_up);
  const GroupedGradient gate_up[] = {weights_.of(w.gate, s.d_expert_gate, list),
                                     weights_.of(w.up, s.d_expert_up, other)};
  ops_.grouped_linear(s.normed, a.dispatch, /*gather=*/true, gate_up, s.dispatched);
  ops_.undispatch(s.dispatched, a.dispatch, s.d_normed);

  const Router router{w.router, w.router_bias, config.router_score};
  ops_.route(s.normed, router, a.experts, s.d_weights, s.d_normed, weights_.of(w.router));
  if (balance.scale > 0) add_balance(balance, router, weights_.of(w.router), a, s);
  if (!w.shared) return;
  mlp(*w.shared, config.shared_inner, a, s, d_out, s.branch);
  backend_.add(s.branch, s.d_normed);
}

void LayerGradient::add_balance(const Balance& balance, const Router& router, const Tensor& d_gate,
                                const Activations& a, const Scratch& s) {
  ops_.balance(s.normed, router, a.experts, balance.scale, s.balance, s.d_normed, d_gate);
  backend_.synchronize();
  const auto rows = static_cast<double>(s.normed.dim(0));
  balance.sums.balance += rows * *s.balance.as<float>();
  balance.sums.balanced_rows += rows;
}

}  // namespace m3
