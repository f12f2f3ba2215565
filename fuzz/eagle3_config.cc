// config.json of an EAGLE3 draft model: whatever the text, an error or a table of weights.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "model/eagle3_table.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  m3::Config target;
  target.hidden = 128;
  target.vocab = 4096;
  target.layers = 4;
  const auto config = m3::parse_eagle3_config(text, "input", target);
  if (!config) {
    M3_CHECK(!config.error().message.empty(), "an error without a sentence");
    return 0;
  }
  m3::Eagle3Weights weights;
  for (const auto& weight : m3::eagle3_table(*config, weights))
    for (const std::int64_t axis : weight.shape)
      M3_CHECK(axis > 0, "{} has an axis of {}", weight.name, axis);
  return 0;
}
