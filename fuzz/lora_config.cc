// adapter_config.json: whatever the text, an error or sizes that are of use.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "model/lora_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto config = m3::parse_lora_config(text, "input");
  if (!config) {
    M3_CHECK(!config.error().message.empty(), "an error without a sentence");
    return 0;
  }
  const m3::LoraSize size_of_q = config->size_of("model.layers.0.self_attn.q_proj");
  M3_CHECK(size_of_q.rank > 0, "a rank of {}", size_of_q.rank);
  return 0;
}
