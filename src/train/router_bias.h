// The routers' biases, which follow the load of their experts and no derivative (spec: training
// §4.3): experts with less than the mean are picked more easily after every step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "model/model.h"
#include "model/weight_table.h"
#include "train/expert_loads.h"
#include "train/trained_weights.h"

namespace m3 {

class RouterBiases {
 public:
  // Of the parts that are trained. `model`, whose biases change in place, outlives it. Errors: its
  // routers have none.
  static Result<RouterBiases> create(Model& model, const TrainedParts& parts);

  // In the order of the weight table.
  std::span<const WeightSpec> weights() const { return weights_; }
  // [experts] F32 each: the model's own.
  std::span<const Tensor> values() const { return values_; }

  // b_e += rate * sign(mean load - load of e).
  void follow(const ExpertLoads& loads, double rate) const;

 private:
  std::vector<WeightSpec> weights_;
  std::vector<Tensor> values_;
  std::vector<std::int64_t> layers_;
};

}  // namespace m3
