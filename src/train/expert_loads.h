// How many tokens each expert had in a step, and whether that is balanced.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/model.h"
#include "model/watch.h"
#include "train/measure.h"

namespace m3 {

using LayerLoads = std::vector<std::int64_t>;  // [experts]: tokens that picked each

// Counts picks while a forward runs.
class ExpertLoads final : public Watch {
 public:
  // `model` outlives it.
  explicit ExpertLoads(const Model& model);

  void saw_experts(std::int64_t layer, const Tensor& experts, const Tensor& weights) override;

  // Of the model's layers, then of the MTP modules; empty: nobody was picked there.
  std::span<const LayerLoads> layers() const { return layers_; }

 private:
  const Model* model_;
  std::vector<LayerLoads> layers_;
};

// Spec: training §4.5, under its keys. An expert's utilization is its load over the mean of its
// layer's. moe/cv_*: standard deviation over mean (as torch.std has it); moe/expert_utilization_*,
// over the experts of all layers; moe/dead_expert_frac_mean; moe/expert_diversity_*: exp(entropy) /
// experts, 1 where loads are equal. mean, median, min, max over layers. With `by_layer` also
// moe/layer_I/* and every expert's moe_expert_utilization/layer_I_expert_J; MTP modules count on
// behind the model's layers. Empty without a pick.
std::vector<Measure> load_measures(std::span<const LayerLoads> loads, bool by_layer);

}  // namespace m3
