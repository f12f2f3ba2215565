// Where the derivatives of the loss by what is trained are summed.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/lora.h"
#include "ops/gradients.h"
#include "train/trained_weights.h"

namespace m3 {

// One float32 tensor for each trained weight, of its shape, zeros at first.
class WeightGradients {
 public:
  // `model` outlives it. Errors: as trained_weights(); the system has no such memory left.
  static Result<WeightGradients> create(Model& model, const TrainedParts& parts);

  // Of the A and B of an adapter alone, which outlives it. Errors: the system has no such memory
  // left.
  static Result<WeightGradients> create(const Lora& adapter);

  const TrainedParts& parts() const { return parts_; }
  // In the order of the weight table, or of the adapter's modules.
  std::span<const WeightSpec> weights() const { return weights_; }
  std::span<const Tensor> tensors() const { return values_.tensors(); }

  // The gradient of a weight of the model, by the place where the model keeps it; empty: it is not
  // trained.
  Tensor of(const Linear& weight) const { return at(&weight); }
  Tensor of(const Matrix& weight) const { return at(&weight); }
  Tensor of(const Tensor& weight) const { return at(&weight); }
  // The same of a layer's weight and of its addend.
  LinearGradient of(const Linear& linear, const Tensor& d_out) const;
  // And of every expert's; the result refers to `lists`.
  struct ExpertLists {
    std::vector<Tensor> weights, a, b;
  };
  GroupedGradient of(std::span<const Linear> experts, const Tensor& d_out,
                     ExpertLists& lists) const;

  // The backward pass may end with this layer of the text model: nothing before it is trained. As
  // many as there are layers: of the text model nothing is.
  std::int64_t lowest_layer() const { return lowest_layer_; }

  std::int64_t bytes() const { return values_.bytes(); }
  void clear() { values_.clear(); }

 private:
  Tensor at(const void* place) const;
  // The part of a gradient that is to `part` as the gradient is to the adapter's values.
  Tensor beside(const Tensor& part) const;

  TrainedParts parts_;
  std::int64_t lowest_layer_ = 0;
  std::vector<WeightSpec> weights_;
  WeightValues values_;
  std::map<const void*, Tensor> by_place_;
  std::map<const void*, Tensor> by_values_;  // by the first byte of an adapter's A or B
};

}  // namespace m3
