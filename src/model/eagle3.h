// An EAGLE3 draft model: one decoder layer that continues the model's hidden states (spec:
// text-model §6).
//
// Its row at slot i joins the embedding of token i + 1 with features of row i, and its logits are
// of token i + 2. Features of verified rows are the model's hidden states at a few layers (taps),
// fused by `fc`; of drafted rows, the layer's own output in the row before:
//
//   x        = (norm(embedding[token], input_layernorm), norm(features, hidden_norm))
//   y        = features + o_proj(attention(q_proj x, k_proj x, v_proj x))    rotated, causal
//   z        = y + down_proj(silu(gate_proj n) * up_proj n)                  n = norm(y, post_…)
//   logits   = lm_head(norm(z, norm))                                        z: the next features
//
// Norms are plain, x / rms * weight; the rotation covers whole heads. Draft ids are a part of the
// vocabulary: draft id i is the token i + d2t[i].
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "model/batch.h"
#include "model/cache.h"
#include "model/config.h"
#include "ops/backend.h"

namespace m3 {

struct Eagle3Config {
  // Sizes of the one layer, under the names of the model's: `vocab` counts draft ids.
  Config layer;
  std::int64_t target_hidden = 0;
  std::int64_t target_vocab = 0;
  // Tap i is the residual stream before layer i; 0 the embeddings, `layers` the last layer's.
  std::vector<std::int64_t> taps;
};

struct Eagle3Weights {
  Linear fuse;            // fc [hidden, taps * target_hidden]
  Tensor embedding_norm;  // midlayer.input_layernorm [hidden] F32, less one: as rms_norm() takes it
  Tensor hidden_norm;     // midlayer.hidden_norm, the same
  Tensor ffn_norm;        // midlayer.post_attention_layernorm, the same
  Tensor final_norm;      // norm, the same
  Linear q, k, v;         // [heads * head_dim, 2 * hidden], k and v [kv_heads * head_dim, …]
  Linear o;               // [hidden, heads * head_dim]
  Linear gate, up;        // [inner, hidden]
  Linear down;            // [hidden, inner]
  Linear head;            // lm_head [vocab, hidden], its own or the model's
  Matrix embedding;       // embed_tokens [target_vocab, hidden], its own or the model's
  std::vector<std::int32_t> target_ids;  // [vocab] the token of each draft id

  std::vector<Buffer> converted;
  std::shared_ptr<const Checkpoint> checkpoint;  // keeps the mappings alive
};

// The buffers of a step, sized once for the largest.
struct Eagle3Arena {
  Eagle3Arena(const Eagle3Config& config, std::int64_t tokens, std::int64_t outputs);

  Tensor ids, slots, sequences, sources, output_rows;  // as in Activations
  Tensor rotations;                                    // [tokens, head_dim]
  Tensor tap;                // [tokens, target_hidden] one of a row's hidden states
  Tensor fused[2];           // [tokens, taps * target_hidden] some or all of them
  Tensor features;           // [tokens, hidden] the residual stream
  Tensor embedded;           // [tokens, hidden]
  Tensor normed;             // [tokens, hidden]
  Tensor joined;             // [tokens, 2 * hidden]
  Tensor q, k, v, attended;  // [tokens, heads * head_dim], k and v [tokens, kv_heads * head_dim]
  Tensor branch;             // [tokens, hidden]
  Tensor kept;               // [outputs, hidden]
  Tensor gate, up;           // [outputs, inner]
  Tensor logits;             // [outputs, vocab]
  Buffer memory;
};

// Of the rows that the batch lists as outputs, in the arena until its next step.
struct Eagle3Outputs {
  Tensor hidden;  // [outputs, hidden]: features of the next draft
  Tensor logits;  // [outputs, vocab] of draft ids
};

class Eagle3 {
 public:
  // `backend` outlives the draft model.
  Eagle3(Eagle3Config config, Eagle3Weights weights, Backend& backend);

  const Eagle3Config& config() const { return config_; }
  const Eagle3Weights& weights() const { return weights_; }

  // Bytes of a page of such a cache.
  std::int64_t page_bytes() const;
  // A cache for the layer, whose pages go by the ids of the model's. Errors: no memory.
  Result<PagedCache> make_cache(std::int64_t pages) const;

  // Features from the model's hidden states: taps[i] [any, target_hidden] is tap config().taps[i];
  // `sources` [rows of the batch] says which row of them each continues.
  void fuse(std::span<const Tensor> taps, const std::vector<std::int32_t>& sources,
            Eagle3Arena& arena) const;
  // Features from the last step's outputs.
  void carry_on(const std::vector<std::int32_t>& sources, Eagle3Arena& arena) const;
  // One step over rows whose features are there: stores K and V of every row.
  Eagle3Outputs forward(const Batch& batch, const PagedCache& cache, Eagle3Arena& arena) const;

 private:
  void attention(const Rows& rows, const PagedCache& cache, std::int64_t count,
                 Eagle3Arena& arena) const;
  Eagle3Outputs feed_forward(std::int64_t outputs, Eagle3Arena& arena) const;
  float eps() const { return static_cast<float>(config_.layer.norm_eps); }
  void linear(const Tensor& x, std::initializer_list<LinearOutput> outputs) const;

  Eagle3Config config_;
  Eagle3Weights weights_;
  Backend& backend_;
  Buffer inv_freq_;  // [head_dim / 2] F32
};

}  // namespace m3
