#include "model/model.h"

#include <cmath>

#include "base/check.h"
#include "model/rope.h"
#include "ops/dropout.h"
#include "tensor/layout.h"

namespace m3 {
namespace {

// Ops look nowhere where no row names an adapter.
void name_adapters(const Batch& batch, Activations& a) {
  if (batch.adapters.empty()) {
    a.adapters = {};
    return;
  }
  copy_into(a.adapters, batch.adapters);
  std::int32_t* kept = a.kept_adapters.as<std::int32_t>();
  for (const std::int32_t row : batch.outputs)
    *kept++ = batch.adapters[static_cast<std::size_t>(row)];
}

}  // namespace

Model::Model(Config config, Weights weights, Backend& backend, Group& group,
             const CacheTypes& types)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      backend_(backend),
      group_(group),
      cache_types_(types),
      inv_freq_(config_.rotary_dim / 2 * dtype_size(DType::kF32)) {
  compute_inv_freq(config_, inv_freq_.tensor(DType::kF32, {config_.rotary_dim / 2}));
}

Tensor Model::forward(const Batch& batch, const PagedCache& cache, ActivationArena& arena) const {
  Watch nobody;
  return forward(batch, cache, arena, nobody);
}

Tensor Model::forward(const Batch& batch, const PagedCache& cache, ActivationArena& arena,
                      Watch& watch) const {
  const Step step = begin(batch, cache, activations_of(batch, arena), watch);
  Activations a = step.a;
  embed(batch, a);
  watch.saw_embedded(a.hidden);
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    attention_half(layer, step);
    // Unless MTP does, nobody reads the other rows once their K and V are stored.
    if (layer == config_.layers - 1 && !batch.keep_final) a = keep_outputs(step);
    if (a.hidden.dim(0) == 0) break;
    feed_forward_half(layer, a, watch);
    watch.saw_hidden(layer, a.hidden);
  }
  if (batch.keep_final) {
    backend_.rms_norm(a.hidden, weights_.final_norm, eps(), a.final_hidden);
    a = keep_outputs(step);
  }
  if (a.hidden.dim(0) > 0) {
    backend_.rms_norm(a.hidden, weights_.final_norm, eps(), a.normed);
    watch.saw_final(a.normed);
    head(a);
  }
  backend_.synchronize();
  return a.logits;
}

Tensor Model::logits_of(const Batch& batch, std::int64_t first_row, std::int64_t rows,
                        ActivationArena& arena) const {
  Activations a = arena.activations().first(rows, rows);
  a.adapters = batch.adapters.empty()
                   ? Tensor()
                   : arena.activations().adapters.rows(first_row, first_row + rows);
  a.normed = arena.activations().final_hidden.rows(first_row, first_row + rows);
  head(a);
  backend_.synchronize();
  return a.logits;
}

const LayerWeights& Model::layer_weights(std::int64_t layer) const {
  const auto l = static_cast<std::size_t>(layer), layers = weights_.layers.size();
  return l < layers ? weights_.layers[l] : weights_.mtp.at(l - layers).layer;
}

void Model::attention_half(std::int64_t layer, const Step& step) const {
  const Activations& a = step.a;
  backend_.rms_norm(a.hidden, layer_weights(layer).attention_norm, eps(), a.normed);
  attention(layer, step);
  backend_.add(a.branch, a.hidden);
}

void Model::feed_forward_half(std::int64_t layer, const Activations& a, Watch& watch) const {
  backend_.rms_norm(a.hidden, layer_weights(layer).ffn_norm, eps(), a.normed);
  feed_forward(layer, a, watch);
  backend_.add(a.branch, a.hidden);
}

void Model::repeat_attention_half(std::int64_t layer, const Step& step) const {
  const Activations& a = step.a;
  const LayerWeights& w = layer_weights(layer);
  backend_.rms_norm(a.hidden, w.attention_norm, eps(), a.normed);
  linear(a, a.normed, {{&w.attention.q, a.q}, {&w.attention.k, a.k}});
  backend_.norm_rope(a.q, {w.attention.q_norm, eps(), a.rotations}, a.q_rotated);
  attend(w.attention, step, step.cache.kv(layer), w.indexer ? &a.blocks : nullptr);
  backend_.add(a.branch, a.hidden);
}

void Model::repeat_feed_forward_half(std::int64_t layer, const Activations& a) const {
  const LayerWeights& w = layer_weights(layer);
  backend_.rms_norm(a.hidden, w.ffn_norm, eps(), a.normed);
  if (w.mlp)
    mlp_product(*w.mlp, config_.dense_inner, a);
  else
    moe_products(*w.moe, a);
}

void Model::embed(const Batch& batch, const Activations& a) const {
  backend_.embed(weights_.embedding, a.ids, a.hidden);
  group_.all_reduce_sum(a.hidden);
  batch.splice_into(a.hidden, backend_);
}

Activations Model::activations_of(const Batch& batch, const ActivationArena& arena) {
  const auto outputs = static_cast<std::int64_t>(batch.outputs.size());
  M3_CHECK(batch.rows() > 0 && batch.rows() <= arena.tokens() && outputs <= arena.outputs(),
           "a step of {} rows and {} outputs in an arena for {} and {}", batch.rows(), outputs,
           arena.tokens(), arena.outputs());
  return arena.activations().first(batch.rows(), outputs);
}

Model::Step Model::begin(const Batch& batch, const PagedCache& cache, const Activations& buffers,
                         Watch& watch) const {
  Activations a = buffers;
  name_adapters(batch, a);
  copy_into(a.ids, batch.ids);
  copy_into(a.slots, batch.slots);
  copy_into(a.sequences, batch.sequences);
  copy_into(a.outputs, batch.outputs);
  const Rope rope{.inv_freq = inv_freq_.tensor(DType::kF32, {config_.rotary_dim / 2}),
                  .scale = rope_scale(config_)};
  const Tensor positions = batch.position_table();
  backend_.rope_table(positions ? positions : a.slots, rope, a.rotations);
  const Rows rows{
      .slots = a.slots, .sequences = a.sequences, .pages = batch.page_table(), .mask = batch.mask};
  return {.a = a, .rows = rows, .cache = cache, .watch = watch};
}

// a.normed -> a.branch (spec: text-model §3.2-3.6).
void Model::attention(std::int64_t layer, const Step& step) const {
  const Activations& a = step.a;
  const AttentionWeights& w = layer_weights(layer).attention;
  const auto& indexer = layer_weights(layer).indexer;
  if (indexer) {
    linear(a, a.normed,
           {{&w.q, a.q},
            {&w.k, a.k},
            {&w.v, a.v},
            {&indexer->q, a.index_q},
            {&indexer->k, a.index_k}});
  } else {
    linear(a, a.normed, {{&w.q, a.q}, {&w.k, a.k}, {&w.v, a.v}});
  }
  const KvView kv = step.cache.kv(layer);
  backend_.norm_rope(a.q, {w.q_norm, eps(), a.rotations}, a.q_rotated);
  backend_.store_kv(a.k, a.v, {w.k_norm, eps(), a.rotations}, step.rows, kv);
  attend(w, step, kv, indexer ? choose_blocks(layer, step) : nullptr);
}

// a.q_rotated -> a.branch.
void Model::attend(const AttentionWeights& w, const Step& step, const KvView& kv,
                   const Tensor* blocks) const {
  const Activations& a = step.a;
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  backend_.attention(a.q_rotated, step.rows, kv, scale, blocks, a.attended, a.log_sums);
  linear(a, a.attended, {{&w.o, a.branch}});
  group_.all_reduce_sum(a.branch);
}

// The lightning indexer (spec: text-model §3.5).
const Tensor* Model::choose_blocks(std::int64_t layer, const Step& step) const {
  const Activations& a = step.a;
  const IndexerWeights& w = *layer_weights(layer).indexer;
  const IndexView cache = step.cache.index(layer);
  backend_.norm_rope(a.index_q, {w.q_norm, eps(), a.rotations}, a.index_q);
  backend_.store_index(a.index_k, {w.k_norm, eps(), a.rotations}, step.rows, cache);
  if (!step.watch.give_blocks(layer, a.blocks))
    backend_.select_blocks(a.index_q, step.rows, cache, config_.selection, a.blocks);
  step.watch.saw_blocks(layer, a.blocks);
  return &a.blocks;
}

// a.normed -> a.branch.
void Model::feed_forward(std::int64_t layer, const Activations& a, Watch& watch) const {
  const LayerWeights& w = layer_weights(layer);
  if (w.mlp) {
    mlp(*w.mlp, config_.dense_inner, a);
  } else {
    moe(layer, a, watch);
  }
  group_.all_reduce_sum(a.branch);
}

// a.normed -> a.branch (spec: text-model §3.7).
void Model::mlp(const MlpWeights& w, std::int64_t inner, const Activations& a) const {
  mlp_product(w, inner, a);
  linear(a, shaped(a.product, a.normed.dim(0), inner), {{&w.down, a.branch}});
}

// a.normed -> a.product.
void Model::mlp_product(const MlpWeights& w, std::int64_t inner, const Activations& a) const {
  const std::int64_t rows = a.normed.dim(0);
  const Tensor gate = shaped(a.gate, rows, inner), up = shaped(a.up, rows, inner);
  const Tensor product = shaped(a.product, rows, inner);
  linear(a, a.normed, {{&w.gate, gate, &config_.swiglu, product}, {&w.up, up}});
}

// a.normed -> a.branch (spec: text-model §3.8). Routed and shared parts are added on each rank
// before the one reduction.
void Model::moe(std::int64_t layer, const Activations& a, Watch& watch) const {
  const MoeWeights& w = *layer_weights(layer).moe;
  const bool given = watch.give_experts(layer, a.experts);
  const Router router{w.router, w.router_bias, config_.router_score};
  backend_.route(a.normed, router, given, a.experts, a.expert_weights);
  watch.saw_experts(layer, a.experts, a.expert_weights);

  backend_.dispatch(a.experts, a.dispatch);
  moe_products(w, a);
  const GroupedOutput down[] = {{w.down, a.expert_out}};
  LinearOutput shared_down[1];
  Beside beside;
  if (w.shared) {
    shared_down[0] = {&w.shared->down, a.branch};
    beside = {shaped(a.product, a.normed.dim(0), config_.shared_inner), shared_down};
  }
  grouped_linear(a, a.expert_product, /*gather=*/false, down, beside);
  const auto scale = static_cast<float>(config_.routed_scale);
  backend_.combine(a.expert_out, a.dispatch, a.expert_weights, scale,
                   w.shared ? a.branch : Tensor(), a.branch);
}

// a.normed -> a.expert_product, and a.product of the shared expert.
void Model::moe_products(const MoeWeights& w, const Activations& a) const {
  const GroupedOutput gate_up[] = {{w.gate, a.expert_gate, &config_.swiglu, a.expert_product},
                                   {w.up, a.expert_up}};
  LinearOutput shared_gate_up[2];
  Beside beside;
  if (w.shared) {
    const std::int64_t rows = a.normed.dim(0), inner = config_.shared_inner;
    const Tensor gate = shaped(a.gate, rows, inner), up = shaped(a.up, rows, inner);
    const Tensor product = shaped(a.product, rows, inner);
    shared_gate_up[0] = {&w.shared->gate, gate, &config_.swiglu, product};
    shared_gate_up[1] = {&w.shared->up, up};
    beside = {a.normed, shared_gate_up};
  }
  grouped_linear(a, a.normed, /*gather=*/true, gate_up, beside);
}

// The step's buffers narrowed to the rows whose logits are wanted.
Activations Model::keep_outputs(const Step& step) const {
  const std::int64_t outputs = step.a.outputs.dim(0);
  backend_.gather_rows(step.a.hidden, step.a.outputs, step.a.kept);
  Activations a = step.a.first(outputs, outputs);
  a.hidden = a.kept;
  if (a.adapters) a.adapters = a.kept_adapters;
  return a;
}

void Model::head(const Activations& a) const {
  linear(a, a.normed, {{&weights_.head, a.logits}});
  group_.all_gather_columns(a.logits, a.logits);
}

void Model::grouped_linear(const Activations& a, const Tensor& x, bool gather,
                           std::span<const GroupedOutput> outputs, const Beside& beside) const {
  const bool apart = drops(beside.outputs);
  backend_.grouped_linear(x, a.dispatch, gather, outputs, apart ? Beside() : beside, a.adapters);
  if (apart) dropped_linear(backend_, beside.x, beside.outputs);
}

void Model::linear(const Activations& a, const Tensor& x,
                   std::initializer_list<LinearOutput> outputs) const {
  const std::span<const LinearOutput> all(outputs.begin(), outputs.size());
  if (drops(all)) return dropped_linear(backend_, x, all);
  backend_.linear(x, all, a.adapters);
}

}  // namespace m3
