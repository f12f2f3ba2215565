#include "train/weight_gradients.h"

namespace m3 {
namespace {

const void* address_of(const Place& place) {
  struct Visitor {
    const void* operator()(std::monostate) const { return nullptr; }
    const void* operator()(RouterPlace router) const { return router.matrix; }
    const void* operator()(const Tensor* tensor) const { return tensor; }
    const void* operator()(const Matrix* matrix) const { return matrix; }
    const void* operator()(const Linear* linear) const { return linear; }
  };
  return std::visit(Visitor(), place);
}

}  // namespace

Result<WeightGradients> WeightGradients::create(Model& model, const TrainedParts& parts) {
  WeightGradients gradients;
  gradients.parts_ = parts;
  M3_TRY(gradients.weights_, trained_weights(model, parts));
  M3_TRY(gradients.values_, WeightValues::create(gradients.weights_));
  for (std::size_t i = 0; i < gradients.weights_.size(); ++i)
    gradients.by_place_[address_of(gradients.weights_[i].place)] = gradients.tensors()[i];
  return gradients;
}

Tensor WeightGradients::at(const void* place) const {
  const auto found = by_place_.find(place);
  return found == by_place_.end() ? Tensor() : found->second;
}

}  // namespace m3
