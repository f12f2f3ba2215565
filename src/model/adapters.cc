#include "model/adapters.h"

#include <algorithm>

namespace m3 {

Status Adapters::attach(Model& model) {
  return for_each_linear(model, [&](const WeightSpec& spec, Linear& linear) {
    std::vector<const LowRank*> addends;
    for (const Lora& lora : loras_) addends.push_back(lora.addend_of(spec.name));
    linear.addend = nullptr;
    linear.addends = {};
    if (std::ranges::all_of(addends, [](const LowRank* addend) { return addend == nullptr; }))
      return;
    linear.addends = addends_.emplace_back(std::move(addends));
  });
}

bool adapts_vision(const Lora& lora, std::span<const WeightSpec> table) {
  return std::ranges::any_of(table, [&](const WeightSpec& spec) {
    return spec.part == Part::kVision && lora.addend_of(spec.name) != nullptr;
  });
}

}  // namespace m3
