// Configs to write random models from.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace m3 {

// Every text and vision feature at small width: one full dense layer, three sparse MoE layers.
std::string nano_config();

// A few layers of the released width, as a text-only model: real shapes for measurements.
struct SliceOptions {
  std::int64_t dense_layers = 1;  // full attention, dense feed-forward
  std::int64_t moe_layers = 1;    // block-sparse attention, experts
  std::int64_t experts = 128;
  std::int64_t vocab = 200064;
};
// Errors: sizes that make no model, e.g. fewer experts than a token picks.
Result<std::string> slice_config(const SliceOptions& options);

}  // namespace m3
