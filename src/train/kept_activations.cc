#include "train/kept_activations.h"

#include "tensor/layout.h"

namespace m3 {
namespace {

std::vector<Placement> attention_tensors(KeptLayer& layer, const Config& c, std::int64_t tokens) {
  Activations& a = layer.a;
  const DType f32 = DType::kF32;
  return {{&layer.input, f32, {tokens, c.hidden}},
          {&layer.middle, f32, {tokens, c.hidden}},
          {&a.q, f32, {tokens, c.heads * c.head_dim}},
          {&a.q_rotated, f32, {tokens, c.heads * c.head_dim}},
          {&a.k, f32, {tokens, c.kv_heads * c.head_dim}},
          {&a.v, f32, {tokens, c.kv_heads * c.head_dim}},
          {&a.attended, f32, {tokens, c.heads * c.head_dim}},
          {&a.log_sums, f32, {tokens, c.heads}}};
}

void add_mlp_tensors(Activations& a, std::int64_t tokens, std::int64_t inner,
                     std::vector<Placement>& placements) {
  for (Tensor* tensor : {&a.gate, &a.up, &a.product})
    placements.push_back({tensor, DType::kF32, {tokens, inner}});
}

void add_moe_tensors(Activations& a, const Config& c, std::int64_t tokens,
                     std::vector<Placement>& placements) {
  const DType f32 = DType::kF32, i32 = DType::kI32;
  const std::int64_t k = c.experts_per_token;
  placements.push_back({&a.experts, i32, {tokens, k}});
  placements.push_back({&a.expert_weights, f32, {tokens, k}});
  placements.push_back({&a.dispatch.offsets, i32, {c.experts + 1}});
  placements.push_back({&a.dispatch.rows, i32, {tokens * k}});
  placements.push_back({&a.dispatch.places, i32, {tokens, k}});
  for (Tensor* tensor : {&a.expert_gate, &a.expert_up, &a.expert_product})
    placements.push_back({tensor, f32, {tokens * k, c.expert_inner}});
}

}  // namespace

KeptActivations::KeptActivations(const Config& config, std::int64_t mtp_modules,
                                 std::int64_t tokens, std::int64_t chunk)
    : shared_(config, tokens, chunk),
      layers_(static_cast<std::size_t>(config.layers + mtp_modules)) {
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const bool module = l >= static_cast<std::size_t>(config.layers);
    const bool sparse = module || config.sparse_layers[l], moe = module || config.moe_layers[l];
    KeptLayer& layer = layers_[l];
    layer.a = shared_.activations();
    auto placements = attention_tensors(layer, config, tokens);
    if (sparse)
      placements.push_back(
          {&layer.a.blocks, DType::kI32, {tokens, config.index_heads, config.selection.topk}});
    if (moe) add_moe_tensors(layer.a, config, tokens, placements);
    if (!moe) add_mlp_tensors(layer.a, tokens, config.dense_inner, placements);
    if (moe && config.shared_experts > 0)
      add_mlp_tensors(layer.a, tokens, config.shared_inner, placements);
    if (module) placements.push_back({&layer.a.joined, DType::kF32, {tokens, 2 * config.hidden}});
    buffers_.push_back(lay_out(placements));
  }
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
