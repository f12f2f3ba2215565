// The two ways to write a summary down.
#include <nlohmann/json.hpp>

#include "model/inspect.h"

namespace m3 {
namespace {

using Json = nlohmann::ordered_json;

const char* attention_of(const LayerSummary& layer) {
  return layer.sparse ? "sparse" : "full";
}

const char* feed_forward_of(const LayerSummary& layer) {
  return layer.moe ? "moe" : "dense";
}

Json layers_json(const std::vector<LayerSummary>& layers) {
  Json list = Json::array();
  for (const LayerSummary& layer : layers)
    list.push_back({{"attention", attention_of(layer)},
                    {"feed_forward", feed_forward_of(layer)},
                    {"values", layer.values},
                    {"values_active", layer.values_active},
                    {"bytes", layer.bytes}});
  return list;
}

Json formats_json(const std::map<std::string, FormatSummary>& formats) {
  Json json = Json::object();
  for (const auto& [name, format] : formats)
    json[name] = {{"weights", format.weights}, {"values", format.values}, {"bytes", format.bytes}};
  return json;
}

Json types_json(const std::map<std::string, TypeSummary>& types) {
  Json json = Json::object();
  for (const auto& [name, type] : types)
    json[name] = {{"tensors", type.tensors}, {"elements", type.elements}, {"bytes", type.bytes}};
  return json;
}

Json memory_json(const MemoryPlan& plan) {
  return {{"tokens", plan.tokens},
          {"weights", plan.weights},
          {"kv_dtype", dtype_name(plan.kv_dtype)},
          {"index_dtype", dtype_name(plan.index_dtype)},
          {"kv_per_token", plan.kv_per_token},
          {"index_per_token", plan.index_per_token},
          {"mtp_per_token", plan.mtp_per_token},
          {"bytes_per_token", plan.kv_per_token + plan.index_per_token + plan.mtp_per_token},
          {"kv", plan.kv},
          {"index", plan.index},
          {"mtp", plan.mtp},
          {"total", plan.total}};
}

Json sizes_json(const Config& c) {
  return {{"hidden", c.hidden},
          {"layers", c.layers},
          {"heads", c.heads},
          {"kv_heads", c.kv_heads},
          {"head_dim", c.head_dim},
          {"rotary_dim", c.rotary_dim},
          {"vocab", c.vocab},
          {"positions_max", c.positions_max},
          {"experts", c.experts},
          {"experts_per_token", c.experts_per_token},
          {"shared_experts", c.shared_experts},
          {"block_tokens", c.block_tokens},
          {"topk_blocks", c.selection.topk},
          {"vision", c.vision.has_value()}};
}

// "12.3 GiB", for people.
std::string readable(std::int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto amount = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; amount >= 1024 && unit + 1 < std::size(kUnits); ++unit) amount /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", amount, kUnits[unit]);
}

// 427,040,140,160.
std::string grouped(std::int64_t number) {
  std::string text = fmt::format("{}", number);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), 1, ',');
  return text;
}

bool alike(const LayerSummary& a, const LayerSummary& b) {
  return a.sparse == b.sparse && a.moe == b.moe && a.values == b.values && a.bytes == b.bytes;
}

// One line for each run of like layers.
std::string layer_lines(const std::vector<LayerSummary>& layers) {
  std::string text;
  for (std::size_t first = 0, end = 0; first < layers.size(); first = end) {
    for (end = first + 1; end < layers.size() && alike(layers[first], layers[end]);) ++end;
    const LayerSummary& layer = layers[first];
    const std::string range =
        end == first + 1 ? fmt::format("{}", first) : fmt::format("{}-{}", first, end - 1);
    text += fmt::format("  {:>9}  {:<6} attention, {:<5}  {:>17} values, {:>15} active, {}\n",
                        range, attention_of(layer), feed_forward_of(layer), grouped(layer.values),
                        grouped(layer.values_active), readable(layer.bytes));
  }
  return text;
}

std::string format_lines(const std::map<std::string, FormatSummary>& formats) {
  std::string text;
  for (const auto& [name, format] : formats)
    text += fmt::format("  {:>9}  {:>7} weights, {:>17} values, {}, {:.2f} bits a value\n", name,
                        format.weights, grouped(format.values), readable(format.bytes),
                        8 * static_cast<double>(format.bytes) / static_cast<double>(format.values));
  return text;
}

std::string type_lines(const std::map<std::string, TypeSummary>& types) {
  std::string text;
  for (const auto& [name, type] : types)
    text += fmt::format("  {:>9}  {:>7} tensors, {:>17} elements, {}\n", name, type.tensors,
                        grouped(type.elements), readable(type.bytes));
  return text;
}

std::string cache_line(const char* name, std::int64_t bytes, std::int64_t per_token) {
  return fmt::format("  {:>9}  {} ({} B a token)\n", name, readable(bytes), per_token);
}

std::string memory_lines(const MemoryPlan& plan) {
  std::string text = fmt::format(
      "memory for {} tokens, cache in {}, its index in {}\n  {:>9}  {}\n", grouped(plan.tokens),
      dtype_name(plan.kv_dtype), dtype_name(plan.index_dtype), "weights", readable(plan.weights));
  text += cache_line("K/V", plan.kv, plan.kv_per_token);
  text += cache_line("index", plan.index, plan.index_per_token);
  if (plan.mtp > 0) text += cache_line("MTP", plan.mtp, plan.mtp_per_token);
  return text + fmt::format("  {:>9}  {}\n", "total", readable(plan.total));
}

}  // namespace

std::string summary_json(const Config& config, const ModelSummary& s) {
  Json json;
  json["values"] = s.values;
  json["values_active"] = s.values_active;
  json["values_text"] = s.values_text;
  json["values_vision"] = s.values_vision;
  json["values_mtp"] = s.values_mtp;
  json["scales"] = s.scales;
  json["tensors"] = s.tensors;
  json["bytes"] = s.bytes;
  json["from_files"] = s.from_files;
  json["mtp_modules"] = s.mtp_modules;
  json["mtp_modules_declared"] = config.mtp_modules;
  json["config"] = sizes_json(config);
  json["formats"] = formats_json(s.formats);
  json["types"] = types_json(s.types);
  json["memory"] = memory_json(s.memory);
  json["layers"] = layers_json(s.layers);
  json["warnings"] = s.warnings;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string summary_text(const Config& config, const ModelSummary& s) {
  std::string text = fmt::format(
      "{} values ({} text, {} vision, {} MTP), {} active for a token\n"
      "{} tensors, {} ({}), {} scales\n"
      "MTP modules: {} declared, {} {}\n",
      grouped(s.values), grouped(s.values_text), grouped(s.values_vision), grouped(s.values_mtp),
      grouped(s.values_active), s.tensors, readable(s.bytes), grouped(s.bytes), grouped(s.scales),
      config.mtp_modules, s.mtp_modules, s.from_files ? "found" : "expected");
  text += "layers\n" + layer_lines(s.layers);
  text += "formats\n" + format_lines(s.formats);
  text += "types of tensors\n" + type_lines(s.types);
  text += memory_lines(s.memory);
  for (const std::string& warning : s.warnings) text += fmt::format("warning: {}\n", warning);
  return text;
}

}  // namespace m3
