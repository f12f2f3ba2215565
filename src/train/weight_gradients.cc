#include "train/weight_gradients.h"

#include <algorithm>
#include <limits>

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
  if (parts.only_mtp()) gradients.lowest_layer_ = model.config().layers;
  M3_TRY(gradients.weights_, trained_weights(model, parts));
  M3_TRY(gradients.values_, WeightValues::create(gradients.weights_));
  for (std::size_t i = 0; i < gradients.weights_.size(); ++i)
    gradients.by_place_[address_of(gradients.weights_[i].place)] = gradients.tensors()[i];
  return gradients;
}

Result<WeightGradients> WeightGradients::create(const Lora& adapter) {
  WeightGradients gradients;
  gradients.lowest_layer_ = std::numeric_limits<std::int64_t>::max();
  const auto add = [&](const LoraModule& module, const char* suffix, const Tensor& values) {
    WeightSpec& spec = gradients.weights_.emplace_back();
    spec.name = module.name + suffix;
    spec.shape = {values.dim(0), values.dim(1), values.dim(2)};
    gradients.lowest_layer_ =
        std::min(gradients.lowest_layer_, std::max<std::int64_t>(0, module.layer));
  };
  for (const LoraModule& module : adapter.modules()) {
    add(module, ".lora_A", module.a);
    add(module, ".lora_B", module.b);
  }
  M3_TRY(gradients.values_, WeightValues::create(gradients.weights_));
  std::size_t i = 0;
  for (const LoraModule& module : adapter.modules())
    for (const Tensor& values : {module.a, module.b})
      gradients.by_values_[values.data] = gradients.tensors()[i++];
  return gradients;
}

LinearGradient WeightGradients::of(const Linear& linear, const Tensor& d_out) const {
  LinearGradient gradient{&linear, d_out, of(linear), {}, {}};
  if (linear.addend == nullptr) return gradient;
  gradient.d_a = beside(linear.addend->a);
  gradient.d_b = beside(linear.addend->b);
  return gradient;
}

GroupedGradient WeightGradients::of(std::span<const Linear> experts, const Tensor& d_out,
                                    ExpertLists& lists) const {
  lists = {};
  for (const Linear& expert : experts) {
    const LinearGradient gradient = of(expert, d_out);
    lists.weights.push_back(gradient.d_weight);
    lists.a.push_back(gradient.d_a);
    lists.b.push_back(gradient.d_b);
  }
  return {experts, d_out, lists.weights, lists.a, lists.b};
}

Tensor WeightGradients::beside(const Tensor& part) const {
  auto found = by_values_.upper_bound(part.data);
  if (found == by_values_.begin()) return {};
  --found;
  const Tensor& gradient = found->second;
  const std::ptrdiff_t offset =
      static_cast<const std::byte*>(part.data) - static_cast<const std::byte*>(found->first);
  if (offset >= gradient.bytes()) return {};
  return Tensor(static_cast<std::byte*>(gradient.data) + offset, DType::kF32,
                std::span(part.shape).first(static_cast<std::size_t>(part.rank)));
}

Tensor WeightGradients::at(const void* place) const {
  const auto found = by_place_.find(place);
  return found == by_place_.end() ? Tensor() : found->second;
}

}  // namespace m3
