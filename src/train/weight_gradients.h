// Where the derivatives of the loss by the weights are summed.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "train/trained_weights.h"

namespace m3 {

// One float32 tensor for each trained weight, of its shape, zeros at first.
class WeightGradients {
 public:
  // `model` outlives it. Errors: as trained_weights(); the system has no such memory left.
  static Result<WeightGradients> create(Model& model, const TrainedParts& parts);

  const TrainedParts& parts() const { return parts_; }
  // In the order of the weight table.
  std::span<const WeightSpec> weights() const { return weights_; }
  std::span<const Tensor> tensors() const { return values_.tensors(); }

  // The gradient of a weight of the model, by the place where the model keeps it; empty: it is not
  // trained.
  Tensor of(const Linear& weight) const { return at(&weight); }
  Tensor of(const Matrix& weight) const { return at(&weight); }
  Tensor of(const Tensor& weight) const { return at(&weight); }

  std::int64_t bytes() const { return values_.bytes(); }
  void clear() { values_.clear(); }

 private:
  Tensor at(const void* place) const;

  TrainedParts parts_;
  std::vector<WeightSpec> weights_;
  WeightValues values_;
  std::map<const void*, Tensor> by_place_;
};

}  // namespace m3
