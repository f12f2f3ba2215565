// Counts how many experts of each layer one step picked.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "model/model.h"
#include "model/watch.h"

namespace m3 {

class ExpertCounter final : public Watch {
 public:
  // `model` outlives this.
  explicit ExpertCounter(const Model& model)
      : model_(model), distinct_(static_cast<std::size_t>(model.config().layers), 0) {}

  void saw_experts(std::int64_t layer, const Tensor& experts, const Tensor&) override {
    model_.backend().synchronize();
    std::vector<bool> seen(static_cast<std::size_t>(model_.config().experts), false);
    for (std::int64_t i = 0; i < experts.elements(); ++i)
      seen[static_cast<std::size_t>(experts.as<std::int32_t>()[i])] = true;
    distinct_[static_cast<std::size_t>(layer)] = std::count(seen.begin(), seen.end(), true);
  }
  // [layers], of the latest step; 0 for dense ones.
  const std::vector<std::int64_t>& distinct() const { return distinct_; }

 private:
  const Model& model_;
  std::vector<std::int64_t> distinct_;
};

}  // namespace m3
