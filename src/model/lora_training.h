// An adapter from files as training goes on with it.
#pragma once

#include <optional>
#include <span>

#include "base/result.h"
#include "model/lora.h"

namespace m3 {

// The group of weights of this kind.
std::optional<LoraGroup> lora_group(Kind kind);
// That of a module of lora_to_train() or Lora::create().
LoraGroup group_of(const LoraModule& module);

// The same adapter in the modules of Lora::create(), where it fits them: A's of a gate and its up
// that are equal, as released names have them twice, become one again. Where they are not, weights
// stay modules of their own, under their released names. Addends count alpha / rank, also where
// `peft` divided by its root.
// Errors: it adapts what training does not; the system has not the memory.
Result<Lora> lora_to_train(const Lora& lora, const Config& config,
                           std::span<const WeightSpec> table);

// Whether save_lora() can write it under transformers' names.
bool fits_transformers(const Lora& lora, const Config& config, std::span<const WeightSpec> table);

}  // namespace m3
