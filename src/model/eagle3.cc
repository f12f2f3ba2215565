#include "model/eagle3.h"

#include <algorithm>
#include <cmath>

#include "model/activations.h"
#include "model/rope.h"
#include "tensor/layout.h"

namespace m3 {

Eagle3Arena::Eagle3Arena(const Eagle3Config& config, std::int64_t tokens, std::int64_t outputs) {
  const Config& c = config.layer;
  const DType f32 = DType::kF32, i32 = DType::kI32;
  const std::int64_t taps = std::ssize(config.taps) * config.target_hidden;
  const std::vector<Placement> layout = {{&ids, i32, {tokens}},
                                         {&slots, DType::kI64, {tokens}},
                                         {&sequences, i32, {tokens}},
                                         {&sources, i32, {tokens}},
                                         {&output_rows, i32, {outputs}},
                                         {&rotations, f32, {tokens, c.rotary_dim}},
                                         {&tap, f32, {tokens, config.target_hidden}},
                                         {&fused[0], f32, {tokens, taps}},
                                         {&fused[1], f32, {tokens, taps}},
                                         {&features, f32, {tokens, c.hidden}},
                                         {&embedded, f32, {tokens, c.hidden}},
                                         {&normed, f32, {tokens, c.hidden}},
                                         {&joined, f32, {tokens, 2 * c.hidden}},
                                         {&q, f32, {tokens, c.heads * c.head_dim}},
                                         {&k, f32, {tokens, c.kv_heads * c.head_dim}},
                                         {&v, f32, {tokens, c.kv_heads * c.head_dim}},
                                         {&attended, f32, {tokens, c.heads * c.head_dim}},
                                         {&branch, f32, {tokens, c.hidden}},
                                         {&kept, f32, {outputs, c.hidden}},
                                         {&gate, f32, {outputs, c.dense_inner}},
                                         {&up, f32, {outputs, c.dense_inner}},
                                         {&logits, f32, {outputs, c.vocab}}};
  memory = lay_out(layout);
}

Eagle3::Eagle3(Eagle3Config config, Eagle3Weights weights, Backend& backend)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      backend_(backend),
      inv_freq_(config_.layer.rotary_dim / 2 * dtype_size(DType::kF32)) {
  compute_inv_freq(config_.layer, inv_freq_.tensor(DType::kF32, {config_.layer.rotary_dim / 2}));
}

std::int64_t Eagle3::page_bytes() const {
  return m3::page_bytes(config_.layer, backend_.cache_format()).total();
}

Result<PagedCache> Eagle3::make_cache(std::int64_t pages) const {
  return PagedCache::create(config_.layer, backend_.cache_format(), pages);
}

void Eagle3::fuse(std::span<const Tensor> taps, const std::vector<std::int32_t>& sources,
                  Eagle3Arena& arena) const {
  const std::int64_t rows = std::ssize(sources), width = config_.target_hidden;
  const Tensor picked = arena.sources.rows(0, rows), tap = arena.tap.rows(0, rows);
  copy_into(picked, sources);
  Tensor fused = shaped(arena.fused[0], rows, width);
  backend_.gather_rows(taps[0], picked, fused);
  for (std::int64_t i = 1; i < std::ssize(taps); ++i) {
    backend_.gather_rows(taps[static_cast<std::size_t>(i)], picked, tap);
    const Tensor wider = shaped(arena.fused[i % 2], rows, (i + 1) * width);
    backend_.concat(fused, tap, wider);
    fused = wider;
  }
  linear(fused, {{&weights_.fuse, arena.features.rows(0, rows)}});
}

void Eagle3::carry_on(const std::vector<std::int32_t>& sources, Eagle3Arena& arena) const {
  const std::int64_t rows = std::ssize(sources);
  copy_into(arena.sources.rows(0, rows), sources);
  backend_.gather_rows(arena.kept, arena.sources.rows(0, rows), arena.features.rows(0, rows));
}

Eagle3Outputs Eagle3::forward(const Batch& batch, const PagedCache& cache,
                              Eagle3Arena& arena) const {
  const std::int64_t count = batch.rows(), outputs = std::ssize(batch.outputs);
  const Rows rows{.slots = arena.slots.rows(0, count),
                  .sequences = arena.sequences.rows(0, count),
                  .pages = batch.page_table()};
  const Tensor ids = arena.ids.rows(0, count), embedded = arena.embedded.rows(0, count);
  copy_into(ids, batch.ids);
  copy_into(rows.slots, batch.slots);
  copy_into(rows.sequences, batch.sequences);
  copy_into(arena.output_rows.rows(0, outputs), batch.outputs);
  backend_.embed(weights_.embedding, ids, embedded);
  // Pictures have no embeddings of another width; there the placeholders' own must do.
  if (config_.layer.hidden == config_.target_hidden) batch.splice_into(embedded, backend_);
  attention(rows, cache, count, arena);
  const Eagle3Outputs result = feed_forward(outputs, arena);
  backend_.synchronize();
  return result;
}

// arena.embedded, arena.features -> arena.features.
void Eagle3::attention(const Rows& rows, const PagedCache& cache, std::int64_t count,
                       Eagle3Arena& arena) const {
  const Config& c = config_.layer;
  const auto part = [&](const Tensor& t) { return t.rows(0, count); };
  const Tensor rotations = part(arena.rotations), features = part(arena.features);
  const Rope rope{.inv_freq = inv_freq_.tensor(DType::kF32, {c.rotary_dim / 2})};
  backend_.rope_table(rows.slots, rope, rotations);
  backend_.rms_norm(part(arena.embedded), weights_.embedding_norm, eps(), part(arena.embedded));
  backend_.rms_norm(features, weights_.hidden_norm, eps(), part(arena.normed));
  backend_.concat(part(arena.embedded), part(arena.normed), part(arena.joined));
  linear(
      part(arena.joined),
      {{&weights_.q, part(arena.q)}, {&weights_.k, part(arena.k)}, {&weights_.v, part(arena.v)}});
  backend_.rotate(rotations, c.head_dim, part(arena.q));
  backend_.store_kv(part(arena.k), part(arena.v), {.rotations = rotations}, rows, cache.kv(0));
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  backend_.attention(part(arena.q), rows, cache.kv(0), scale, nullptr, part(arena.attended), {});
  linear(part(arena.attended), {{&weights_.o, part(arena.branch)}});
  backend_.add(part(arena.branch), features);
}

// arena.features of the outputs -> arena.kept, arena.logits.
Eagle3Outputs Eagle3::feed_forward(std::int64_t outputs, Eagle3Arena& arena) const {
  const auto part = [&](const Tensor& t) { return t.rows(0, outputs); };
  const Tensor kept = part(arena.kept), normed = part(arena.normed), gate = part(arena.gate);
  if (outputs > 0) {
    backend_.gather_rows(arena.features, part(arena.output_rows), kept);
    backend_.rms_norm(kept, weights_.ffn_norm, eps(), normed);
    linear(normed, {{&weights_.gate, gate, &config_.layer.swiglu}, {&weights_.up, part(arena.up)}});
    linear(gate, {{&weights_.down, part(arena.branch)}});
    backend_.add(part(arena.branch), kept);
    backend_.rms_norm(kept, weights_.final_norm, eps(), normed);
    linear(normed, {{&weights_.head, part(arena.logits)}});
  }
  return {.hidden = kept, .logits = part(arena.logits)};
}

void Eagle3::linear(const Tensor& x, std::initializer_list<LinearOutput> outputs) const {
  backend_.linear(x, {outputs.begin(), outputs.size()});
}

}  // namespace m3
