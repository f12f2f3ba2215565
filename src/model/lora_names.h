// The files of an adapter and the parts of their names. Only lora_load.cc and lora_save.cc include
// this.
#pragma once

#include <string_view>

namespace m3 {

inline constexpr const char* kLoraConfigFile = "/adapter_config.json";
inline constexpr const char* kLoraTensorFile = "/adapter_model.safetensors";
inline constexpr std::string_view kLoraPrefix = "base_model.model.";
inline constexpr std::string_view kLoraA = ".lora_A.weight", kLoraB = ".lora_B.weight";
// What peft calls the inner one of two wrappers around the same module.
inline constexpr std::string_view kLoraInner = ".base_layer";

}  // namespace m3
