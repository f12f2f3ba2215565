// The buffers that a forward writes, sized once for the largest step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "model/config.h"
#include "ops/backend.h"
#include "tensor/tensor.h"

namespace m3 {

// Every tensor has `tokens` rows unless its comment says otherwise. All are F32 except the picks
// and lists, which are I32. The forward only writes through these views; whose memory they are is
// the caller's choice, so that training can keep what inference overwrites.
struct Activations {
  Tensor ids;        // [tokens] I32
  Tensor slots;      // [tokens] I64
  Tensor sequences;  // [tokens] I32
  Tensor adapters;   // [tokens] I32, as Backend::linear() takes them; empty: no row names one
  Tensor rotations;  // [tokens, rotary_dim]

  Tensor hidden;  // [tokens, hidden] the residual stream
  Tensor normed;  // [tokens, hidden] what a branch reads
  Tensor branch;  // [tokens, hidden] what a branch adds

  Tensor q;          // [tokens, heads * head_dim] as projected
  Tensor q_rotated;  // the same, normalised and rotated
  Tensor k;          // [tokens, kv_heads * head_dim]
  Tensor v;          // [tokens, kv_heads * head_dim]
  Tensor attended;   // [tokens, heads * head_dim]
  Tensor log_sums;   // [tokens, heads], where training keeps them; else empty
  Tensor index_q;    // [tokens, index_heads * index_dim]
  Tensor index_k;    // [tokens, index_dim]
  Tensor blocks;     // [tokens, index_heads, topk] I32

  Tensor gate;            // [tokens, dense_inner or shared_inner]
  Tensor up;              // the same
  Tensor product;         // the same: swiglu(gate, up)
  Tensor experts;         // [tokens, experts_per_token] I32
  Tensor expert_weights;  // [tokens, experts_per_token]
  Dispatch dispatch;
  Tensor expert_gate;     // [tokens * experts_per_token, expert_inner]
  Tensor expert_up;       // the same
  Tensor expert_product;  // the same: swiglu(expert_gate, expert_up)
  Tensor expert_out;      // [tokens * experts_per_token, hidden]

  Tensor
      final_hidden;  // [tokens, hidden] after the final norm, where Batch::keep_final asks for it
  Tensor sources;    // [tokens] I32: of an MTP step, the row of `final_hidden` to continue
  Tensor joined;     // [tokens, 2 * hidden]: of an MTP step, what eh_proj reads

  Tensor outputs;        // [outputs] I32: rows whose logits are wanted
  Tensor kept;           // [outputs, hidden] the residual stream of those rows
  Tensor kept_adapters;  // [outputs] I32: their `adapters`
  Tensor logits;         // [outputs, vocab]

  // Views of the first `tokens` rows (and `outputs` rows of the last four).
  Activations first(std::int64_t tokens, std::int64_t outputs) const;
};

// Fills the start of a step: `to` holds as many elements.
template <typename T>
void copy_into(const Tensor& to, const std::vector<T>& from) {
  M3_CHECK(to.elements() == static_cast<std::int64_t>(from.size()), "{} values into {}",
           from.size(), to.describe());
  std::copy(from.begin(), from.end(), to.as<T>());
}

// Where each op overwrites what it has read: q_rotated is q, product is gate, expert_product is
// expert_gate.
void overwrite(Activations& a);

// An arena with room for steps of up to `tokens` rows, of which up to `outputs` want logits.
class ActivationArena {
 public:
  ActivationArena(const Config& config, std::int64_t tokens, std::int64_t outputs);
  // What one takes, without making it.
  static std::int64_t bytes_for(const Config& config, std::int64_t tokens, std::int64_t outputs);
  const Activations& activations() const { return activations_; }
  std::int64_t tokens() const { return activations_.hidden.dim(0); }
  std::int64_t outputs() const { return activations_.outputs.dim(0); }
  std::int64_t bytes() const { return buffer_.bytes(); }

 private:
  Activations activations_;
  Buffer buffer_;
};

}  // namespace m3
