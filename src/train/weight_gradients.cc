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

bool trains(const WeightSpec& spec, const TrainedParts& parts) {
  if (!spec.has_gradient) return false;
  switch (spec.part) {
    case Part::kText:
      return parts.text;
    case Part::kMtp:
      return parts.mtp;
    case Part::kVision:
      return parts.vision;
  }
  return false;
}

}  // namespace

Result<WeightGradients> WeightGradients::create(Model& model, const TrainedParts& parts) {
  if (parts.mtp && model.mtp_modules() == 0) return fail("this model has no MTP modules to train");
  if (parts.vision && !model.weights().vision)
    return fail("this model was loaded without a vision tower to train");
  M3_TRY(const auto table, weight_table(model.config(), model.mtp_modules(), &model.weights()));
  WeightGradients gradients;
  gradients.parts_ = parts;
  for (const WeightSpec& spec : table) {
    if (!trains(spec, parts)) continue;
    M3_TRY(Buffer buffer, Buffer::allocate(spec.elements() * dtype_size(DType::kF32)));
    const Tensor gradient(buffer.data(), DType::kF32, std::span<const std::int64_t>(spec.shape));
    gradients.entries_.push_back({spec.name, gradient});
    gradients.by_place_[address_of(spec.place)] = gradient;
    gradients.buffers_.push_back(std::move(buffer));
  }
  return gradients;
}

std::int64_t WeightGradients::bytes() const {
  std::int64_t bytes = 0;
  for (const Buffer& buffer : buffers_) bytes += buffer.bytes();
  return bytes;
}

Tensor WeightGradients::at(const void* place) const {
  const auto found = by_place_.find(place);
  return found == by_place_.end() ? Tensor() : found->second;
}

}  // namespace m3
