#include "model/quantisation.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "base/glob.h"

namespace m3 {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kQuantization = "quantization_config";

// "model.layers.0.mlp.up_proj" of "language_model.model.layers.0.mlp.up_proj.weight".
std::string module_of(std::string_view name) {
  constexpr std::string_view kEnding = ".weight";
  if (name.ends_with(kEnding)) name.remove_suffix(kEnding.size());
  return bare_name(name);
}

// The entry for the module or for the nearest module around it.
template <typename Named>
auto nearest(const Named& named, std::string_view module) {
  for (;;) {
    if (const auto at = named.find(module); at != named.end()) return at;
    const auto dot = module.rfind('.');
    if (dot == std::string_view::npos) return named.end();
    module = module.substr(0, dot);
  }
}

bool is_ignored(const Quantisation& said, std::string_view module) {
  return nearest(said.ignored, module) != said.ignored.end() ||
         std::any_of(said.ignored_globs.begin(), said.ignored_globs.end(),
                     [&](const std::string& glob) { return glob_matches(glob, module); });
}

std::string described(const FormattedWeight& weight) {
  return weight.file.empty() ? weight.spec->name
                             : fmt::format("{} in {}", weight.spec->name, weight.file);
}

Status disagree(const FormattedWeight& a, const FormattedWeight& b) {
  return fail("{} is {} and {} is {}; parts of one product must share a format{}", described(a),
              a.codec->name, described(b), b.codec->name,
              a.spec->expert >= 0 ? ", and so must all experts of a layer" : "");
}

// MXFP8 beside plain numbers.
bool half_exported(const FormattedWeight& a, const FormattedWeight& b) {
  const auto pair = std::minmax(a.codec->format, b.codec->format);
  return pair.second == Format::kMxfp8 && !is_quantised(pair.first);
}

std::string_view algorithm_name(Format format) {
  switch (format) {
    case Format::kMxfp8:
      return "MXFP8";
    case Format::kMxfp4:
      return "MXFP4";
    case Format::kNvfp4:
      return "NVFP4";
    default:
      return "INT8";
  }
}

// The modules that no release quantises, as the MXFP8 release lists them (spec: text-model §1.5),
// and the linears that this model leaves as they were.
Json ignored_modules(std::span<const FormattedWeight> weights) {
  Json ignored = Json::array();
  for (const std::string_view module : {"lm_head", "model.embed_tokens", "vision_tower",
                                        "multi_modal_projector", "patch_merge_mlp"}) {
    const bool kept = std::none_of(weights.begin(), weights.end(), [&](const FormattedWeight& w) {
      return is_quantised(w.codec->format) && bare_name(w.spec->name).starts_with(module);
    });
    if (kept) ignored.push_back(module);
  }
  for (const FormattedWeight& weight : weights) {
    const bool listed = weight.spec->quantised || weight.spec->kind == Kind::kRouter;
    if (listed && !is_quantised(weight.codec->format))
      ignored.push_back(weight.spec->name.substr(0, weight.spec->name.rfind('.')));
  }
  return ignored;
}

// Modules of other formats than `main`, and those that nobody expects to be quantised; all where
// `main` is kBF16.
Json listed_modules(std::span<const FormattedWeight> weights, Format main) {
  Json modules = Json::object();
  for (const FormattedWeight& weight : weights)
    if (is_quantised(weight.codec->format) &&
        (weight.codec->format != main || !weight.spec->quantised))
      modules[weight.spec->name.substr(0, weight.spec->name.rfind('.'))] = {
          {"quant_algo", algorithm_name(weight.codec->format)}};
  return modules;
}

// As ModelOpt writes it, the only form in which others read NVFP4.
Json modelopt_config(std::span<const FormattedWeight> weights) {
  const bool mixed = !listed_modules(weights, Format::kNvfp4).empty();
  Json json;
  json["quant_method"] = "modelopt";
  json["quant_algo"] = mixed ? "MIXED_PRECISION" : "NVFP4";
  json["group_size"] = 16;
  json["ignore"] = ignored_modules(weights);
  if (mixed) json["quantized_layers"] = listed_modules(weights, Format::kBF16);
  return json;
}

}  // namespace

std::string bare_name(std::string_view name) {
  constexpr std::string_view kReleased = "language_model.", kNative = "model.language_model.";
  if (name.starts_with(kNative)) return fmt::format("model.{}", name.substr(kNative.size()));
  return std::string(name.starts_with(kReleased) ? name.substr(kReleased.size()) : name);
}

bool is_quantised(Format format) {
  return codec_of(format).scale_columns > 0;
}

Format said_format(const Quantisation& said, const WeightSpec& spec) {
  if (spec.shape.size() != 2) return Format::kBF16;
  const std::string module = module_of(spec.name);
  if (const auto exact = said.modules.find(module); exact != said.modules.end())
    return exact->second;
  if (!spec.quantised || is_ignored(said, module)) return Format::kBF16;
  if (const auto around = nearest(said.modules, module); around != said.modules.end())
    return around->second;
  return spec.expert >= 0 && said.experts ? *said.experts : said.linears;
}

const Codec& said_codec(const Quantisation& said, const WeightSpec& spec) {
  const Format format = said_format(said, spec);
  return is_quantised(format) ? codec_of(format) : *codec_for(spec.stored, std::nullopt);
}

std::int64_t stored_bytes(const Codec& codec, const WeightSpec& spec) {
  const std::int64_t rows = spec.shape.front(), cols = spec.elements() / rows;
  return rows * (value_row_bytes(codec, cols) + scale_row_bytes(codec, cols));
}

bool takes_format(const WeightSpec& spec, Format format) {
  if (format == Format::kMxfp8) return spec.quantised;
  return spec.kind == Kind::kAttention || spec.kind == Kind::kDenseMlp ||
         spec.kind == Kind::kExpert || spec.kind == Kind::kSharedExpert;
}

Status check_groups(std::span<const FormattedWeight> weights) {
  std::map<std::tuple<Part, std::int64_t, Fusion>, const FormattedWeight*> first;
  for (const FormattedWeight& weight : weights) {
    const WeightSpec& spec = *weight.spec;
    if (spec.fusion == Fusion::kNone) continue;
    const auto [at, is_new] =
        first.emplace(std::tuple(spec.part, spec.layer, spec.fusion), &weight);
    if (at->second->codec != weight.codec) return disagree(*at->second, weight);
    if (spec.fusion != Fusion::kIndexer || !is_new) continue;
    const auto attention = first.find({spec.part, spec.layer, Fusion::kAttention});
    if (attention != first.end() && half_exported(*attention->second, weight))
      return disagree(*attention->second, weight);
  }
  return {};
}

Json quantization_config(std::span<const FormattedWeight> weights, Format main) {
  if (main == Format::kNvfp4) return modelopt_config(weights);
  Json json;
  json["quant_method"] = codec_of(main).name;
  json["activation_scheme"] = "dynamic";
  json["weight_block_size"] = {1, 32};
  json["ignored_layers"] = ignored_modules(weights);
  Json others = listed_modules(weights, main);
  if (!others.empty()) json["quantized_layers"] = std::move(others);
  return json;
}

std::string with_quantization(const std::string& config_json, const Json& quantization) {
  Json json = Json::parse(config_json);  // parse_config() has read it: it cannot fail
  json.erase(kQuantization);
  if (json.contains("text_config") && json["text_config"].is_object())
    json["text_config"].erase(kQuantization);
  if (!quantization.is_null()) json[kQuantization] = quantization;
  return json.dump(2) + "\n";
}

}  // namespace m3
