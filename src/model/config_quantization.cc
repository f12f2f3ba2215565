#include "model/config_readers.h"

namespace m3 {
namespace {

// The one layout of MXFP8: a scale for 1 row and 32 columns.
void check_block(Fields& quantization) {
  constexpr std::string_view kKey = "weight_block_size";
  const auto block = quantization.integers(kKey, {1, 1 << 20});
  if (block && *block != std::vector<std::int64_t>{1, 32})
    quantization.reading().mistake("{} is not [1, 32], the only block of mxfp8",
                                   quantization.name_of(kKey));
}

// Mixed successors keep quant_method mxfp8 and add these for the experts.
void refuse_mixtures(Fields& quantization) {
  for (std::string_view key : {"moe_quant_algo", "moe_quant_format"})
    if (quantization.has(key))
      quantization.reading().mistake("{} is {}; only experts in mxfp8 are supported",
                                     quantization.name_of(key), quantization.text(key));
}

}  // namespace

void read_quantization(Fields& text, Config& config) {
  auto quantization = text.object("quantization_config");
  if (!quantization) return;
  constexpr std::string_view kMethods[] = {"mxfp8"};
  quantization->choice("quant_method", kMethods);
  quantization->require_text("activation_scheme", "dynamic");
  check_block(*quantization);
  refuse_mixtures(*quantization);
  config.mxfp8 = true;
  for (std::string_view key : {"ignored_layers", "modules_to_not_convert"})
    if (const auto names = quantization->texts(key))
      config.unquantised.insert(config.unquantised.end(), names->begin(), names->end());
  quantization->note_unread();
}

}  // namespace m3
