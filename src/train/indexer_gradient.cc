#include "train/indexer_gradient.h"

#include <cmath>

namespace m3 {

IndexerGradient::IndexerGradient(const Model& model, const WeightGradients& weights,
                                 std::int64_t tokens)
    : model_(model), weights_(weights), backend_(model.backend()) {
  buffer_ = lay_out(scratch_.placements(model.config(), tokens));
}

std::int64_t IndexerGradient::bytes_for(const Config& config, std::int64_t tokens) {
  Scratch nowhere;
  return bytes_of(nowhere.placements(config, tokens));
}

std::vector<Placement> IndexerGradient::Scratch::placements(const Config& c, std::int64_t tokens) {
  std::vector<Placement> placements;
  const auto add = [&](std::initializer_list<Tensor*> tensors, std::int64_t cols) {
    for (Tensor* tensor : tensors) placements.push_back({tensor, DType::kF32, {tokens, cols}});
  };
  add({&normed}, c.hidden);
  add({&q, &q_rotated, &d_q}, c.index_heads * c.index_dim);
  add({&k, &d_k}, c.index_dim);
  add({&measures.divergences, &measures.overlaps, &measures.masses}, c.index_heads);
  return placements;
}

IndexerGradient::Scratch IndexerGradient::Scratch::first(const Config& config,
                                                         std::int64_t rows) const {
  Scratch part = *this;
  narrow(part.placements(config, rows));
  return part;
}

void IndexerGradient::add(std::int64_t layer, const KeptLayer& kept, const Model::Step& step,
                          float scale, SideSums& sums) const {
  const LayerWeights& weights = model_.layer_weights(layer);
  if (!weights.indexer || !weights_.of(weights.indexer->q)) return;
  const IndexerWeights& w = *weights.indexer;
  const Config& config = model_.config();
  const float eps = model_.eps();
  const Tensor& rotations = kept.a.rotations;
  const Scratch s = scratch_.first(config, kept.input.dim(0));
  GradientOps& ops = *backend_.gradients();

  backend_.rms_norm(kept.input, weights.attention_norm, eps, s.normed);
  const LinearOutput projected[] = {{&w.q, s.q}, {&w.k, s.k}};
  backend_.linear(s.normed, projected);
  backend_.norm_rope(s.q, {w.q_norm, eps, rotations}, s.q_rotated);
  const AttentionScores attention{kept.a.q_rotated, step.cache.kv(layer),
                                  1.0f / std::sqrt(static_cast<float>(config.head_dim))};
  ops.divergence(s.q_rotated, step.rows, step.cache.index(layer), config.selection, kept.a.blocks,
                 attention, scale, s.measures, s.d_q, s.d_k);
  ops.norm_rope(s.q, {w.q_norm, eps, rotations}, s.d_q, s.d_q, weights_.of(w.q_norm));
  ops.norm_rope(s.k, {w.k_norm, eps, rotations}, s.d_k, s.d_k, weights_.of(w.k_norm));
  const LinearGradient qk[] = {weights_.of(w.q, s.d_q), weights_.of(w.k, s.d_k)};
  ops.linear(s.normed, qk, /*d_x=*/{});
  count(s, step.a.slots, sums);
}

void IndexerGradient::count(const Scratch& s, const Tensor& slots, SideSums& sums) const {
  backend_.synchronize();
  const Config& c = model_.config();
  for (std::int64_t row = 0; row < slots.dim(0); ++row) {
    const bool chose = slots.as<std::int64_t>()[row] / c.block_tokens + 1 > c.selection.topk;
    for (std::int64_t head = 0; head < c.index_heads; ++head) {
      sums.divergence += s.measures.divergences.row<float>(row)[head];
      if (!chose) continue;
      sums.overlap += s.measures.overlaps.row<float>(row)[head];
      sums.mass += s.measures.masses.row<float>(row)[head];
    }
    sums.divergence_count += static_cast<double>(c.index_heads);
    if (chose) sums.choice_count += static_cast<double>(c.index_heads);
  }
}

}  // namespace m3
