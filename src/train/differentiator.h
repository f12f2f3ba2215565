// The loss of some sequences and its derivative by every trained weight: one forward that keeps
// what it passes through, and one backward.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "model/model.h"
#include "ops/gradients.h"
#include "train/indexer_gradient.h"
#include "train/kept_activations.h"
#include "train/layer_gradient.h"
#include "train/loss_sums.h"
#include "train/side_losses.h"
#include "train/training_sequence.h"
#include "train/vision_gradient.h"
#include "train/weight_gradients.h"

namespace m3 {

class Differentiator {
 public:
  // `model` and `gradients` outlive it. For batches of up to `tokens` rows. MTP modules, where the
  // gradients train them, count `mtp_scale` / their number. What layers keep changes no bit.
  // `side`: what counts besides. Errors: the backend cannot train.
  static Result<Differentiator> create(const Model& model, const WeightGradients& gradients,
                                       std::int64_t tokens, float mtp_scale, Keep keep = Keep::kAll,
                                       const SideLosses& side = {});

  // A step of so many rows, of which add() gets a part at a time: side losses are means over them,
  // and side() begins anew. Without it, each part is a step.
  void begin_step(std::int64_t rows);
  const SideSums& side() const { return side_sums_; }

  // Adds the derivatives of (main + mtp_scale / depths * Σ mtp) / scored. Each sequence sees itself
  // alone, in blocks that begin with it. Together they have at most as many
  // rows as the differentiator was made for. Errors: no memory for their keys and values; a bias
  // where indexers learn.
  Result<LossSums> add(std::span<const TrainingSequence> sequences, std::int64_t scored);

  // What add() returns, without derivatives.
  Result<LossSums> losses(std::span<const TrainingSequence> sequences);

  // What one takes, without making it, nor keys and values, nor a vision tower's part. `indexer`:
  // as in SideLosses.
  static std::int64_t bytes_for(const Config& config, std::int64_t mtp_modules, std::int64_t tokens,
                                Keep keep, bool indexer = false);
  std::int64_t bytes() const {
    return kept_.bytes() + layers_.bytes() + (indexer_ ? indexer_->bytes() : 0) + buffer_.bytes();
  }

 private:
  // What leaves the trunk, or an MTP module, and enters the head.
  struct Depth {
    Tensor ids, labels;  // [tokens] I32
    Tensor losses;       // [tokens]
    Tensor embedded;     // [tokens, hidden]: what a module's enorm reads
    Tensor last;         // [tokens, hidden]: what the last norm reads
    Tensor hidden;       // [tokens, hidden]: what it gives
    Tensor d_hidden;     // [tokens, hidden]
  };

  Differentiator(const Model& model, const WeightGradients& gradients, std::int64_t tokens,
                 float mtp_scale, Keep keep, const SideLosses& side);

  // `streams`: [tokens, hidden] each.
  static std::vector<Placement> placements(std::int64_t hidden, std::int64_t tokens,
                                           std::span<Depth> depths,
                                           std::initializer_list<Tensor*> streams, Tensor& joined);
  // `scored`: as for add(); none: no derivatives.
  Result<LossSums> run(std::span<const TrainingSequence> sequences,
                       std::optional<std::int64_t> scored);
  std::int64_t modules() const { return static_cast<std::int64_t>(depths_.size()) - 1; }
  void place_rows(std::span<const TrainingSequence> sequences);
  // Something of the text model, or below it, is trained.
  bool reaches_trunk() const { return weights_->lowest_layer() < model_->config().layers; }
  LossSums sum_losses(std::span<const TrainingSequence> sequences) const;
  void forward(const Batch& batch, const Model::Step& step);
  void forward_layer(std::int64_t layer, const Model::Step& step);
  void forward_module(std::int64_t module, const Batch& batch, const Model::Step& step);
  // The losses of a depth; with a scale, derivatives by its `hidden` and by the head, else those by
  // its `hidden` are zero.
  void head(const Depth& depth, std::int64_t rows, std::optional<float> scale);
  void backward(const Model::Step& step);
  void backward_trunk(const Model::Step& step);
  void backward_layer(std::int64_t layer, const Model::Step& step, const Tensor& d_stream);
  // What the layer passed through, from what it kept.
  void repeat_layer(std::int64_t layer, const KeptLayer& kept, const Model::Step& step);
  void backward_module(std::int64_t module, const Model::Step& step);

  const Model* model_;
  const WeightGradients* weights_;
  Backend* backend_;
  GradientOps* ops_;
  float mtp_scale_;
  Keep keep_;
  KeptActivations kept_;
  LayerGradient layers_;
  SideLosses side_;
  SideSums side_sums_;
  std::int64_t step_rows_ = 0;
  std::optional<IndexerGradient> indexer_;
  std::optional<VisionGradient> vision_;
  std::vector<Depth> depths_;        // the trunk's, then each module's
  Tensor d_stream_;                  // [tokens, hidden]: by the residual stream
  Tensor d_joined_;                  // [tokens, 2 * hidden]
  Tensor d_embedded_, d_continued_;  // [tokens, hidden]: its halves
  Buffer buffer_;
};

}  // namespace m3
