#include <nlohmann/json.hpp>

#include "model/config_readers.h"
#include "model/quantisation.h"

namespace m3 {
namespace {

constexpr std::size_t kGlobsMax = 256;  // each is tried on every weight

// Names of formats, as `quant_algo` and `moe_quant_algo` have them, and what they mean.
constexpr std::string_view kAlgorithms[] = {"NVFP4", "MXFP8", "MXFP4", "INT8", "MIXED_PRECISION"};
constexpr Format kAlgorithmFormats[] = {Format::kNvfp4, Format::kMxfp8, Format::kMxfp4,
                                        Format::kInt8};
constexpr std::size_t kMixed = 4;

Format algorithm(Fields& fields, std::string_view key) {
  return kAlgorithmFormats[fields.choice(key, std::span(kAlgorithms).first(kMixed))];
}

// Scales of MXFP8, MXFP4 and int8 are for 1 row and 32 columns.
void check_block(Fields& quantization, std::string_view method) {
  constexpr std::string_view kKey = "weight_block_size";
  const auto block = quantization.integers(kKey, {1, 1 << 20});
  if (block && *block != std::vector<std::int64_t>{1, 32})
    quantization.reading().mistake("{} is not [1, 32], the only block of {}",
                                   quantization.name_of(kKey), method);
}

// Every spelling of "these are not quantised".
void read_ignored(Fields& fields, Quantisation& said) {
  for (std::string_view key :
       {"ignored_layers", "modules_to_not_convert", "ignore", "exclude_modules"}) {
    const auto names = fields.texts(key);
    if (!names) continue;
    for (const std::string& name : *names) {
      if (name.find_first_of("*?") == std::string::npos)
        said.ignored.insert(bare_name(name));
      else
        said.ignored_globs.push_back(bare_name(name));
    }
  }
  if (said.ignored_globs.size() > kGlobsMax)
    fields.reading().mistake("{} patterns of modules that are not quantised; at most {} are read",
                             said.ignored_globs.size(), kGlobsMax);
}

// Modules with a format of their own: {"module": {"quant_algo": "MXFP8", …}, …}.
void read_modules(Fields& fields, Quantisation& said) {
  auto modules = fields.object("quantized_layers");
  if (!modules) return;
  for (const std::string& name : modules->names())
    if (auto module = modules->object(name))
      said.modules[bare_name(name)] = algorithm(*module, "quant_algo");
}

// The mixed successors of MXFP8: the experts are in another format.
void read_experts(Fields& fields, Quantisation& said) {
  constexpr std::string_view kFormats[] = {"nvfp4-pack-quantized"};
  if (fields.has("moe_quant_algo")) said.experts = algorithm(fields, "moe_quant_algo");
  if (fields.has("moe_quant_format")) fields.choice("moe_quant_format", kFormats);
}

// ModelOpt's own words, in config.json or beside it. Much of them is about activations, which stay
// bfloat16 here, and about who wrote them.
void read_modelopt(Fields& fields, Quantisation& said) {
  if (fields.has("quant_algo")) {
    const std::size_t algorithm = fields.choice("quant_algo", kAlgorithms);
    said.linears = algorithm == kMixed ? Format::kBF16 : kAlgorithmFormats[algorithm];
  }
  read_ignored(fields, said);
  read_modules(fields, said);
}

void read_native(Fields& fields, std::string_view method, Format format, Quantisation& said) {
  said.linears = format;
  fields.require_text("activation_scheme", "dynamic");
  check_block(fields, method);
  read_experts(fields, said);
  read_ignored(fields, said);
  read_modules(fields, said);
  fields.note_unread();
}

}  // namespace

void read_quantization(Fields& text, Config& config) {
  auto fields = text.object("quantization_config");
  if (!fields) return;
  constexpr std::string_view kMethods[] = {"mxfp8", "mxfp4", "int8", "modelopt"};
  constexpr Format kFormats[] = {Format::kMxfp8, Format::kMxfp4, Format::kInt8};
  const std::size_t method = fields->choice("quant_method", kMethods);
  if (method == std::size(kFormats))
    read_modelopt(*fields, config.quantisation);
  else
    read_native(*fields, kMethods[method], kFormats[method], config.quantisation);
}

Status parse_hf_quantization(std::string_view json, std::string_view where, Config& config) {
  M3_TRY(const nlohmann::json document, parse_document(json, where));
  Reading reading{std::string(where), {}, {}, {}};
  Fields top(reading, document, "");
  if (auto fields = top.object("quantization")) read_modelopt(*fields, config.quantisation);
  return reading.status();
}

}  // namespace m3
