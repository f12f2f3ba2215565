#include "model/lora_config.h"

#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "model/config_fields.h"

namespace m3 {
namespace {

using nlohmann::json;

// Settings that say how the adapter was made, or of what, and nothing of how it is read.
const std::set<std::string_view> kOfTraining = {"auto_mapping",
                                                "base_model_name_or_path",
                                                "ensure_weight_tying",
                                                "exclude_modules",
                                                "inference_mode",
                                                "init_lora_weights",
                                                "layers_pattern",
                                                "layers_to_transform",
                                                "lora_dropout",
                                                "megatron_core",
                                                "peft_version",
                                                "qalora_group_size",
                                                "revision",
                                                "runtime_config",
                                                "target_modules",
                                                "target_parameters",
                                                "task_type",
                                                "eva_config"};

bool says_nothing(const json& value) {
  return value.is_null() || value == false ||
         ((value.is_object() || value.is_array()) && value.empty());
}

// `pattern` of peft's rank_pattern and alpha_pattern is an expression; we know those that are
// names, with their dots escaped or not.
Result<std::string> plain_name(std::string_view pattern) {
  std::string name;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const bool escaped = pattern[i] == '\\' && i + 1 < pattern.size() && pattern[i + 1] == '.';
    const char c = pattern[escaped ? ++i : i];
    if (c == '^' && i == 0) continue;
    const bool plain =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == '-';
    if (!plain) return fail("\"{}\" is an expression; expected names of modules", pattern);
    name += c;
  }
  return name;
}

// One walk over adapter_config.json.
class ConfigReader {
 public:
  ConfigReader(const json& file, std::string_view where) : file_(file), where_(where) {}

  Result<LoraConfig> read() {
    LoraConfig config;
    M3_TRY_STATUS(expect_known());
    M3_TRY(config.size.rank, rank_of("r", at("r")));
    M3_TRY(config.size.alpha, alpha_of("lora_alpha", at("lora_alpha")));
    M3_TRY_STATUS(read_pattern("rank_pattern", &ConfigReader::rank_of, config.ranks));
    M3_TRY_STATUS(read_pattern("alpha_pattern", &ConfigReader::alpha_of, config.alphas));
    const json& stabilised = at("use_rslora");
    if (!stabilised.is_null() && !stabilised.is_boolean())
      return fail("{}: use_rslora is {}, expected true or false", where_, stabilised.dump());
    config.rank_stabilised = stabilised == true;
    return config;
  }

 private:
  const json& at(const char* key) const {
    static const json kNull;
    const auto it = file_.find(key);
    return it == file_.end() ? kNull : *it;
  }

  Status expect_known() const {
    if (at("peft_type") != "LORA")
      return fail("{}: peft_type is {}, expected \"LORA\"", where_, shown(at("peft_type")));
    if (const json& bias = at("bias"); !bias.is_null() && bias != "none")
      return fail("{}: bias is {}, expected \"none\": biases are not adapted", where_, shown(bias));
    // PiSSA and its kin take what A and B begin as out of the base.
    if (const json& init = at("init_lora_weights");
        init.is_string() && init != "gaussian" && init != "eva" && init != "orthogonal")
      return fail("{}: init_lora_weights {} changes the base model, which is not done here", where_,
                  shown(init));
    const std::set<std::string_view> read = {
        "peft_type", "bias", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"};
    for (const auto& [key, value] : file_.items())
      if (!read.contains(key) && !kOfTraining.contains(key) && !says_nothing(value))
        return fail("{}: {} is {}, and adapters with it are not computed here", where_, key,
                    shown(value));
    return {};
  }

  Result<std::int64_t> rank_of(const std::string& key, const json& value) const {
    if (!value.is_number_integer() || value < 1 || value > (1 << 20))
      return fail("{}: {} is {}, expected a rank of 1 or more", where_, key, shown(value));
    return value.get<std::int64_t>();
  }

  Result<double> alpha_of(const std::string& key, const json& value) const {
    if (!value.is_number() || !std::isfinite(static_cast<float>(value.get<double>())))
      return fail("{}: {} is {}, expected a number", where_, key, shown(value));
    return value.get<double>();
  }

  template <typename Value>
  Status read_pattern(const char* key,
                      Result<Value> (ConfigReader::*read)(const std::string&, const json&) const,
                      std::map<std::string, Value>& values) const {
    const json& pattern = at(key);
    if (says_nothing(pattern)) return {};
    if (!pattern.is_object())
      return fail("{}: {} is {}, expected an object", where_, key, shown(pattern));
    for (const auto& [name, value] : pattern.items()) {
      const Result<std::string> plain = plain_name(name);
      if (!plain) return fail("{}: {}: {}", where_, key, plain.error().message);
      M3_TRY(values[*plain], (this->*read)(fmt::format("{} of {}", key, name), value));
    }
    return {};
  }

  // The beginning of a value.
  static std::string shown(const json& value) {
    constexpr std::size_t kShown = 60;
    std::string text = value.is_null() ? "missing" : value.dump();
    return text.size() > kShown ? text.substr(0, kShown) + "…" : text;
  }

  const json& file_;
  std::string_view where_;
};

// The value whose key is the module's name, or the end of it; else `otherwise`.
template <typename Value>
Value of_module(const std::map<std::string, Value>& values, std::string_view module,
                Value otherwise) {
  for (const auto& [name, value] : values)
    if (module == name || module.ends_with("." + name)) return value;
  return otherwise;
}

}  // namespace

LoraSize LoraConfig::size_of(std::string_view module) const {
  return {of_module(ranks, module, size.rank), of_module(alphas, module, size.alpha)};
}

Result<LoraConfig> parse_lora_config(std::string_view text, std::string_view where) {
  M3_TRY(const json file, parse_document(text, where));
  if (!file.is_object()) return fail("{} is no JSON object", where);
  return ConfigReader(file, where).read();
}

}  // namespace m3
