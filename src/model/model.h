// MiniMax-M3's text model: the folder's centre, and one page.
#pragma once

#include "model/activations.h"
#include "model/batch.h"
#include "model/cache.h"
#include "model/config.h"
#include "model/mtp.h"
#include "model/watch.h"
#include "model/weights.h"
#include "ops/backend.h"
#include "parallel/group.h"

namespace m3 {

// The forward of spec: text-model §3.0 over a paged cache. Decode, prefill and any mixture are one
// batch. Holds no state between steps: that is the cache's and the caller's.
class Model {
 public:
  // `backend` and `group` outlive the model. `types`: in which its caches keep their numbers.
  Model(Config config, Weights weights, Backend& backend, Group& group,
        const CacheTypes& types = {});

  const Config& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  // Modules that were loaded; a cache for them has as many layers more.
  std::int64_t mtp_modules() const { return static_cast<std::int64_t>(weights_.mtp.size()); }
  Backend& backend() const { return backend_; }
  // Of the caches that this model is given.
  CacheFormat cache_format() const { return cache_types_.on(backend_); }

  // Runs one step: stores K, V and index keys of every row, and returns the logits
  // [batch.outputs, vocab] F32 of the rows that want them, in `arena` until its next step.
  // Ids must be in range, slots below config().positions_max, pages below cache.pages(), and the
  // batch within the arena's size. Waits for the backend.
  Tensor forward(const Batch& batch, const PagedCache& cache, ActivationArena& arena,
                 Watch& watch) const;
  Tensor forward(const Batch& batch, const PagedCache& cache, ActivationArena& arena) const;

  // Logits [rows, vocab] F32 of rows from `first_row` on of `batch`, which had Batch::keep_final
  // and was the last forward() in `arena`; at most as many as the arena has outputs, whose place
  // they take.
  Tensor logits_of(const Batch& batch, std::int64_t first_row, std::int64_t rows,
                   ActivationArena& arena) const;

  // One step of an MTP module (model/mtp.h).
  MtpOutputs forward_mtp(const MtpInput& input, Batch batch, const PagedCache& cache,
                         ActivationArena& arena) const;

  // The parts of which a step is made, for training: it keeps what they pass through, by giving
  // each layer buffers of its own.

  // What every layer of one step shares; `a` has as many rows as the batch.
  struct Step {
    Activations a;
    Rows rows;
    const PagedCache& cache;
    Watch& watch;
  };
  // Fills what `a` says of the rows: ids, slots, sequences, outputs, rotations.
  Step begin(const Batch& batch, const PagedCache& cache, const Activations& a, Watch& watch) const;
  // a.ids -> a.hidden, and what pictures put in place of their placeholders.
  void embed(const Batch& batch, const Activations& a) const;
  // Layers 0..config.layers - 1, then those of the MTP modules.
  const LayerWeights& layer_weights(std::int64_t layer) const;
  // a.hidden += attention(norm(a.hidden)).
  void attention_half(std::int64_t layer, const Step& step) const;
  // a.hidden += feed_forward(norm(a.hidden)).
  void feed_forward_half(std::int64_t layer, const Activations& a, Watch& watch) const;
  // Both again for the backward pass, to the same bits, given a.hidden as it was, a.rotations, the
  // picks (a.blocks, a.experts, a.expert_weights, a.dispatch), and keys and values that are still
  // in the cache. What no derivative reads is left out: the indexer, v, the router, the down
  // projections. a.hidden += attention(norm(a.hidden)).
  void repeat_attention_half(std::int64_t layer, const Step& step) const;
  // a.hidden -> a.gate, a.up, a.product, and those of the experts.
  void repeat_feed_forward_half(std::int64_t layer, const Activations& a) const;
  // a.hidden, the embeddings, and the hidden states before -> a.hidden (spec: text-model §5.2).
  void join(const MtpWeights& w, const MtpInput& input, const Activations& a) const;
  // a.normed -> a.logits (spec: text-model §3.9).
  void head(const Activations& a) const;

  float eps() const { return static_cast<float>(config_.norm_eps); }

  // The same weights, to change their values.
  Weights& weights() { return weights_; }

 private:
  static Activations activations_of(const Batch& batch, const ActivationArena& arena);
  void attention(std::int64_t layer, const Step& step) const;
  const Tensor* choose_blocks(std::int64_t layer, const Step& step) const;
  void attend(const AttentionWeights& w, const Step& step, const KvView& kv,
              const Tensor* blocks) const;
  void feed_forward(std::int64_t layer, const Activations& a, Watch& watch) const;
  void mlp(const MlpWeights& w, std::int64_t inner, const Activations& a) const;
  void mlp_product(const MlpWeights& w, std::int64_t inner, const Activations& a) const;
  void moe(std::int64_t layer, const Activations& a, Watch& watch) const;
  void moe_products(const MoeWeights& w, const Activations& a) const;
  Activations keep_outputs(const Step& step) const;
  void linear(const Activations& a, const Tensor& x,
              std::initializer_list<LinearOutput> outputs) const;
  void grouped_linear(const Activations& a, const Tensor& x, bool gather,
                      std::span<const GroupedOutput> outputs, const Beside& beside) const;

  Config config_;
  Weights weights_;
  Backend& backend_;
  Group& group_;
  CacheTypes cache_types_;
  Buffer inv_freq_;  // [rotary_dim / 2] F32
};

}  // namespace m3
