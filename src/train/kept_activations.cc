#include "train/kept_activations.h"

#include <map>

#include "tensor/layout.h"

namespace m3 {
namespace {

// What kind of layer it is.
struct LayerKind {
  bool module = false, sparse = false, moe = false;
};

LayerKind kind_of(const Config& c, std::size_t layer) {
  const bool module = layer >= static_cast<std::size_t>(c.layers);
  return {module, module || c.sparse_layers[layer], module || c.moe_layers[layer]};
}

// What is never computed again.
std::vector<Placement> inputs(KeptLayer& layer, const LayerKind& kind, const Config& c,
                              std::int64_t tokens) {
  Activations& a = layer.a;
  const DType f32 = DType::kF32, i32 = DType::kI32;
  const std::int64_t k = c.experts_per_token;
  std::vector<Placement> placements = {{&layer.input, f32, {tokens, c.hidden}}};
  if (kind.module) placements.push_back({&a.joined, f32, {tokens, 2 * c.hidden}});
  if (kind.sparse)
    placements.push_back({&a.blocks, i32, {tokens, c.index_heads, c.selection.topk}});
  if (!kind.moe) return placements;
  placements.push_back({&a.experts, i32, {tokens, k}});
  placements.push_back({&a.expert_weights, f32, {tokens, k}});
  placements.push_back({&a.dispatch.offsets, i32, {c.experts + 1}});
  placements.push_back({&a.dispatch.rows, i32, {tokens * k}});
  placements.push_back({&a.dispatch.places, i32, {tokens, k}});
  return placements;
}

// What follows from that.
void add_computed(KeptLayer& layer, const LayerKind& kind, const Config& c, std::int64_t tokens,
                  std::vector<Placement>& placements) {
  Activations& a = layer.a;
  const auto add = [&](std::initializer_list<Tensor*> tensors, std::int64_t rows,
                       std::int64_t cols) {
    for (Tensor* tensor : tensors) placements.push_back({tensor, DType::kF32, {rows, cols}});
  };
  add({&layer.middle}, tokens, c.hidden);
  add({&a.q, &a.q_rotated, &a.attended}, tokens, c.heads * c.head_dim);
  add({&a.k, &a.v}, tokens, c.kv_heads * c.head_dim);
  add({&a.log_sums}, tokens, c.heads);
  if (!kind.moe) add({&a.gate, &a.up, &a.product}, tokens, c.dense_inner);
  if (!kind.moe) return;
  add({&a.expert_gate, &a.expert_up, &a.expert_product}, tokens * c.experts_per_token,
      c.expert_inner);
  if (c.shared_experts > 0) add({&a.gate, &a.up, &a.product}, tokens, c.shared_inner);
}

}  // namespace

template <typename Make>
void KeptActivations::place(const Config& config, std::int64_t tokens, Keep keep,
                            const Activations& shared, std::vector<KeptLayer>& layers,
                            const Make& make) {
  // One set of buffers for each kind of layer, if it is computed again.
  std::map<bool, KeptLayer> computed;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const LayerKind kind = kind_of(config, l);
    const auto made = computed.find(kind.moe);
    const bool reuse = keep == Keep::kInputs && made != computed.end();
    KeptLayer& layer = layers[l];
    if (reuse)
      layer = made->second;
    else
      layer.a = shared;
    layer.a.adapters = {};  // what is trained, every row adds
    auto placements = inputs(layer, kind, config, tokens);
    if (!reuse) add_computed(layer, kind, config, tokens, placements);
    make(placements);
    computed.try_emplace(kind.moe, layer);
  }
}

KeptActivations::KeptActivations(const Config& config, std::int64_t mtp_modules,
                                 std::int64_t tokens, std::int64_t chunk, Keep keep)
    : shared_(config, tokens, chunk),
      layers_(static_cast<std::size_t>(config.layers + mtp_modules)) {
  place(config, tokens, keep, shared_.activations(), layers_,
        [&](const auto& placements) { buffers_.push_back(lay_out(placements)); });
}

std::int64_t KeptActivations::bytes_for(const Config& config, std::int64_t mtp_modules,
                                        std::int64_t tokens, std::int64_t chunk, Keep keep) {
  std::int64_t bytes = ActivationArena::bytes_for(config, tokens, chunk);
  std::vector<KeptLayer> nowhere(static_cast<std::size_t>(config.layers + mtp_modules));
  place(config, tokens, keep, {}, nowhere,
        [&](const auto& placements) { bytes += bytes_of(placements); });
  return bytes;
}

KeptLayer KeptLayer::first(std::int64_t tokens) const {
  return {a.first(tokens, 0), input.rows(0, tokens), middle.rows(0, tokens)};
}

std::int64_t KeptActivations::bytes() const {
  std::int64_t bytes = shared_.bytes();
  for (const Buffer& buffer : buffers_) bytes += buffer.bytes();
  return bytes;
}

}  // namespace m3
