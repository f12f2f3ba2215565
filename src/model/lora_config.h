// adapter_config.json, what `peft` says of an adapter.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/lora.h"

namespace m3 {

// What adapter_config.json says that matters here.
struct LoraConfig {
  LoraSize size;
  std::map<std::string, std::int64_t> ranks;  // of modules whose name is this, or ends in it
  std::map<std::string, double> alphas;       // the same
  bool rank_stabilised = false;               // addends count alpha / sqrt(rank)

  LoraSize size_of(std::string_view module) const;
};

// Errors: not JSON, a setting that is missing or of a wrong type, or one that asks for what is not
// computed here: DoRA, biases, whole modules beside the adapter, patterns that are no names.
Result<LoraConfig> parse_lora_config(std::string_view text, std::string_view where);

}  // namespace m3
