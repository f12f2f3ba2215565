// Configs to write random models from.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace m3 {

// Every text and vision feature at small width: one full dense layer, three sparse MoE layers.
std::string nano_config();

// A few layers of the released width: real shapes for measurements. Text only where vision_layers
// is 0, else with a tower of so many layers, its projector and merger.
struct SliceOptions {
  std::int64_t dense_layers = 1;  // full attention, dense feed-forward
  std::int64_t moe_layers = 1;    // block-sparse attention, experts
  std::int64_t experts = 128;
  std::int64_t vocab = 200064;
  std::int64_t vision_layers = 0;
};
// Errors: sizes that make no model, e.g. fewer experts than a token picks.
Result<std::string> slice_config(const SliceOptions& options);

}  // namespace m3
