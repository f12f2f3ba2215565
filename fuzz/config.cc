// config.json: whatever the text, an error or a config whose weights can be counted.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "model/config.h"
#include "model/inspect.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = m3::parse_config(text, "input");
  if (!config) {
    M3_CHECK(!config.error().message.empty(), "an error without a sentence");
    return 0;
  }
  // The table of a large model takes a second: too long for a fuzzer.
  constexpr std::int64_t kExpertsMax = 1000;
  if (config->experts * (config->layers + config->mtp_modules) > kExpertsMax) return 0;
  if (config->vision && config->vision->layers > kExpertsMax) return 0;
  const auto summary = m3::summarise(*config, nullptr);
  if (!summary) return 0;
  M3_CHECK(summary->values > 0 && summary->bytes > 0 && summary->memory.total > 0,
           "{} values, {} bytes", summary->values, summary->bytes);
  M3_CHECK(summary->values_active <= summary->values, "{} active", summary->values_active);
  return 0;
}
