// Adapters that serve side by side: every row of a batch runs with one of them, or with none.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "base/result.h"
#include "model/lora.h"
#include "model/model.h"

namespace m3 {

// Adapters of one model by number, as Batch::adapters names them: from 0, in order.
class Adapters {
 public:
  std::int64_t count() const { return static_cast<std::int64_t>(loras_.size()); }
  void add(Lora lora) { loras_.push_back(std::move(lora)); }

  // Lets the model's linears add them, in place of what they added before; once, after the last
  // add(). Outlives the model's steps.
  Status attach(Model& model);

 private:
  std::vector<Lora> loras_;
  std::deque<std::vector<const LowRank*>> addends_;  // of each linear that one of them adapts
};

// Whether it changes what the model sees in pictures: the tower's features are no batch's rows.
bool adapts_vision(const Lora& lora, std::span<const WeightSpec> table);

}  // namespace m3
