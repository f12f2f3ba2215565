// Teaches the indexer to rank blocks as attention does (spec: training §13 S10).
//
// The indexer's weights have no derivative by the loss of tokens. Theirs is by the divergence of
// GradientOps::divergence(), and nothing else has one by that: what the indexer reads, and the
// attention that it is to foresee, count as constants.
#pragma once

#include <vector>

#include "model/model.h"
#include "ops/gradients.h"
#include "tensor/layout.h"
#include "train/kept_activations.h"
#include "train/side_losses.h"
#include "train/weight_gradients.h"

namespace m3 {

class IndexerGradient {
 public:
  // All outlive it; the model's backend has derivatives. For batches of up to `tokens` rows.
  IndexerGradient(const Model& model, const WeightGradients& weights, std::int64_t tokens);

  // Adds the derivatives of `scale` times the sum of divergences of one layer, if its indexer is
  // trained. `kept` as the forward of `step` left it, of the batch's rows.
  void add(std::int64_t layer, const KeptLayer& kept, const Model::Step& step, float scale,
           SideSums& sums) const;

  std::int64_t bytes() const { return buffer_.bytes(); }
  // What one takes, without making it.
  static std::int64_t bytes_for(const Config& config, std::int64_t tokens);

 private:
  struct Scratch {
    Tensor normed;             // [rows, hidden]
    Tensor q, q_rotated, d_q;  // [rows, index_heads * index_dim]
    Tensor k, d_k;             // [rows, index_dim]
    RankingMeasures measures;

    std::vector<Placement> placements(const Config& config, std::int64_t tokens);
    Scratch first(const Config& config, std::int64_t rows) const;
  };
  void count(const Scratch& s, const Tensor& slots, SideSums& sums) const;

  const Model& model_;
  const WeightGradients& weights_;
  Backend& backend_;
  Scratch scratch_;
  Buffer buffer_;
};

}  // namespace m3
