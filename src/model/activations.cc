#include "model/activations.h"

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "tensor/layout.h"

namespace m3 {
namespace {

std::vector<Placement> layout(Activations& a, const Config& c, std::int64_t tokens,
                              std::int64_t outputs) {
  const DType f32 = DType::kF32, i32 = DType::kI32;
  const std::int64_t inner = std::max(c.dense_inner, c.shared_inner);
  const std::int64_t picks = tokens * c.experts_per_token;
  return {{&a.ids, i32, {tokens}},
          {&a.slots, DType::kI64, {tokens}},
          {&a.sequences, i32, {tokens}},
          {&a.adapters, i32, {tokens}},
          {&a.rotations, f32, {tokens, c.rotary_dim}},
          {&a.hidden, f32, {tokens, c.hidden}},
          {&a.normed, f32, {tokens, c.hidden}},
          {&a.branch, f32, {tokens, c.hidden}},
          {&a.q, f32, {tokens, c.heads * c.head_dim}},
          {&a.k, f32, {tokens, c.kv_heads * c.head_dim}},
          {&a.v, f32, {tokens, c.kv_heads * c.head_dim}},
          {&a.attended, f32, {tokens, c.heads * c.head_dim}},
          {&a.index_q, f32, {tokens, c.index_heads * c.index_dim}},
          {&a.index_k, f32, {tokens, c.index_dim}},
          {&a.blocks, i32, {tokens, c.index_heads, c.selection.topk}},
          {&a.gate, f32, {tokens, inner}},
          {&a.up, f32, {tokens, inner}},
          {&a.experts, i32, {tokens, c.experts_per_token}},
          {&a.expert_weights, f32, {tokens, c.experts_per_token}},
          {&a.dispatch.offsets, i32, {c.experts + 1}},
          {&a.dispatch.rows, i32, {picks}},
          {&a.dispatch.places, i32, {tokens, c.experts_per_token}},
          {&a.expert_gate, f32, {picks, c.expert_inner}},
          {&a.expert_up, f32, {picks, c.expert_inner}},
          {&a.expert_out, f32, {picks, c.hidden}},
          {&a.final_hidden, f32, {tokens, c.hidden}},
          {&a.sources, i32, {tokens}},
          {&a.joined, f32, {tokens, 2 * c.hidden}},
          {&a.outputs, i32, {outputs}},
          {&a.kept, f32, {outputs, c.hidden}},
          {&a.kept_adapters, i32, {outputs}},
          {&a.logits, f32, {outputs, c.vocab}}};
}

}  // namespace

void overwrite(Activations& a) {
  a.q_rotated = a.q;
  a.product = a.gate;
  a.expert_product = a.expert_gate;
}

ActivationArena::ActivationArena(const Config& config, std::int64_t tokens, std::int64_t outputs) {
  buffer_ = lay_out(layout(activations_, config, tokens, outputs));
  overwrite(activations_);
}

std::int64_t ActivationArena::bytes_for(const Config& config, std::int64_t tokens,
                                        std::int64_t outputs) {
  Activations nowhere;
  return bytes_of(layout(nowhere, config, tokens, outputs));
}

Activations Activations::first(std::int64_t tokens, std::int64_t output_rows) const {
  Activations part = *this;
  for (Tensor* t : {&part.ids,
                    &part.slots,
                    &part.sequences,
                    &part.rotations,
                    &part.hidden,
                    &part.normed,
                    &part.branch,
                    &part.q,
                    &part.q_rotated,
                    &part.k,
                    &part.v,
                    &part.attended,
                    &part.index_q,
                    &part.index_k,
                    &part.blocks,
                    &part.gate,
                    &part.up,
                    &part.product,
                    &part.experts,
                    &part.expert_weights,
                    &part.dispatch.places,
                    &part.final_hidden,
                    &part.sources,
                    &part.joined})
    *t = t->rows(0, tokens);
  for (Tensor* t : {&part.log_sums, &part.adapters})
    if (*t) *t = t->rows(0, tokens);
  const std::int64_t picks = tokens * experts.dim(1);
  for (Tensor* t : {&part.dispatch.rows, &part.expert_gate, &part.expert_up, &part.expert_product,
                    &part.expert_out})
    *t = t->rows(0, picks);
  for (Tensor* t : {&part.outputs, &part.kept, &part.kept_adapters, &part.logits})
    *t = t->rows(0, output_rows);
  return part;
}

}  // namespace m3
