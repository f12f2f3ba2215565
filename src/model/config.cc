#include "model/config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "model/config_readers.h"

namespace m3 {
namespace {

using Json = nlohmann::json;

// Fields that released and converted files carry and that change nothing here.
constexpr std::string_view kIgnored[] = {"_name_or_path",
                                         "architectures",
                                         "attention_dropout",
                                         "auto_map",
                                         "bos_token_id",
                                         "chunk_size_feed_forward",
                                         "dtype",
                                         "eos_token_id",
                                         "id2label",
                                         "image_grid_pinpoints",
                                         "image_seq_length",
                                         "initializer_range",
                                         "is_encoder_decoder",
                                         "label2id",
                                         "model_type",
                                         "num_nextn_predict_layers",
                                         "num_reward_heads",
                                         "output_attentions",
                                         "output_hidden_states",
                                         "output_router_logits",
                                         "pad_token_id",
                                         "problem_type",
                                         "process_image_mode",
                                         "return_dict",
                                         "router_aux_loss_coef",
                                         "router_jitter_noise",
                                         "torch_dtype",
                                         "transformers_version",
                                         "use_cache"};

// Whose model this is. Only `architectures` tells: model_type differs from copy to copy of the same
// model (spec: text-model §1.2).
void check_architecture(Fields& top) {
  for (const std::string& name : top.texts("architectures").value_or(std::vector<std::string>{}))
    if (!name.starts_with("MiniMaxM3"))
      top.reading().mistake("architectures names {}; expected MiniMax-M3, e.g. {}", name,
                            "MiniMaxM3SparseForConditionalGeneration");
}

void read_sizes(Fields& text, Config& c) {
  c.hidden = text.integer("hidden_size", {1, kWidthMax}, 6144);
  c.layers = text.integer("num_hidden_layers", {1, kLayersMax}, 60);
  c.heads = text.integer("num_attention_heads", {1, kWidthMax}, 64);
  c.kv_heads = text.integer("num_key_value_heads", {1, kWidthMax}, 4);
  // hidden / heads would be the customary stand-in for a missing head_dim, and is wrong for M3.
  c.head_dim = text.integer("head_dim", {1, kWidthMax});
  c.vocab = text.integer("vocab_size", {1, kVocabMax});
  c.norm_eps = text.number("rms_norm_eps", {0, 1}, 1e-6);
}

void read_mtp(Fields& text, Config& c) {
  constexpr std::string_view kChains[] = {"pre_norm", "post_norm"};
  c.mtp_modules = text.integer("num_mtp_modules", {0, 64}, 0);
  c.mtp_chain =
      text.choice(kMtpChainKey, kChains, 0) == 0 ? MtpChain::kPreNorm : MtpChain::kPostNorm;
}

void read_activation(Fields& text, Config& c) {
  constexpr std::string_view kReleased[] = {"swigluoai"};
  constexpr std::string_view kNative[] = {"swigluoai", "silu"};
  if (spelled_natively(text)) {
    text.choice("hidden_act", kNative);
  } else {
    text.choice("hidden_act", kReleased);
  }
  c.swiglu.alpha = static_cast<float>(text.number("swiglu_alpha", {-1e6, 1e6}, 1.702));
  c.swiglu.limit = static_cast<float>(text.number("swiglu_limit", {-1e6, 1e6}, 7.0));
  c.swiglu.beta = static_cast<float>(text.number("swiglu_beta", {-1e6, 1e6}, 1.0));
}

// Widths and counts are required only where a layer uses them. Needs moe_layers.
void read_feed_forward(Fields& text, Config& c) {
  const bool moe = c.moe_layer_count() > 0;
  const bool dense = c.moe_layer_count() < c.layers;
  const auto required_if = [](bool needed) {
    return needed ? std::nullopt : std::optional<std::int64_t>(0);
  };
  const std::string_view experts = text.has("num_local_experts") || !text.has("num_experts")
                                       ? "num_local_experts"
                                       : "num_experts";
  c.dense_inner = text.integer("dense_intermediate_size", {1, kWidthMax}, required_if(dense));
  c.expert_inner = text.integer("intermediate_size", {1, kWidthMax}, required_if(moe));
  c.experts = text.integer(experts, {1, kExpertsMax}, required_if(moe));
  c.experts_per_token = text.integer("num_experts_per_tok", {1, kExpertsMax}, required_if(moe));
  c.shared_experts = text.integer("n_shared_experts", {0, 64}, 0);
  const auto shared = text.integer("shared_intermediate_size", {1, kWidthMax}, c.expert_inner);
  c.shared_inner = shared * c.shared_experts;
}

void read_router(Fields& text, Config& c) {
  constexpr std::string_view kScores[] = {"sigmoid", "softmax"};
  constexpr std::string_view kTypes[] = {"float32", "bfloat16"};
  c.router_score =
      text.choice("scoring_func", kScores, 0) == 0 ? RouterScore::kSigmoid : RouterScore::kSoftmax;
  c.router_bias = text.boolean("use_routing_bias", true);
  c.routed_scale = text.number("routed_scaling_factor", {-1e6, 1e6}, 2.0);
  text.choice("router_dtype", kTypes, 0);  // the scores are float32 either way
}

// Features of other models' configs that this model does not have.
void refuse_other_models(Fields& text) {
  text.require_flag("use_gemma_norm", true);
  text.require_flag("use_qk_norm", true);
  text.require_text("qk_norm_type", "per_head");
  text.require_flag("attention_output_gate", false);
  text.require_flag("tie_word_embeddings", false);
  text.require_flag("use_index_cache", false);
}

void read_text(Fields& text, Config& config) {
  read_sizes(text, config);
  read_mtp(text, config);
  read_activation(text, config);
  read_layers(text, config);
  read_feed_forward(text, config);
  read_router(text, config);
  read_quantization(text, config);
  refuse_other_models(text);
  text.ignore(kIgnored);
}

void read_all(Fields& top, Config& config) {
  check_architecture(top);
  auto text = top.object("text_config");
  config.flat = !text;
  if (config.flat) {
    read_text(top, config);
    read_rope(top, config);
  } else {
    // A rope_scaling beside text_config does not reach the decoder, so rope is read without the
    // fall-back (spec: text-model §3.4.3).
    Fields rope = *text;
    text->fall_back_to(top);
    read_text(*text, config);
    read_rope(rope, config);
    text->ignore(kRopeFields);
    top.require_flag("tie_word_embeddings", false);
    text->note_unread();
  }
  read_vision(top, config);
  top.ignore(kIgnored);
  top.note_unread();
}

std::vector<std::string> warnings_of(const Reading& reading) {
  std::vector<std::string> warnings = reading.warnings;
  if (!reading.unread.empty())
    warnings.push_back(fmt::format("{}: unknown fields are not used: {}", reading.where,
                                   fmt::join(reading.unread, ", ")));
  return warnings;
}

std::int64_t count(const std::vector<bool>& flags) {
  return std::count(flags.begin(), flags.end(), true);
}

}  // namespace

std::int64_t Config::sparse_layer_count() const {
  return count(sparse_layers);
}

std::int64_t Config::moe_layer_count() const {
  return count(moe_layers);
}

Result<Config> parse_config(std::string_view json, std::string_view where) {
  M3_TRY(const Json document, parse_document(json, where));
  Reading reading{std::string(where), {}, {}, {}};
  Config config;
  Fields top(reading, document, "");
  read_all(top, config);
  M3_TRY_STATUS(reading.status());
  if (auto rules = check_rules(config); !rules) return fail("{}: {}", where, rules.error().message);
  config.warnings = warnings_of(reading);
  return config;
}

Result<Config> load_config(const std::string& directory) {
  namespace fs = std::filesystem;
  const fs::path path = fs::path(directory) / "config.json";
  std::error_code error;
  if (!fs::is_directory(directory, error))
    return fail("{} is not a model: expected a directory that holds config.json and *.safetensors",
                directory);
  if (!fs::exists(path, error)) {
    if (fs::exists(fs::path(directory) / "adapter_config.json", error))
      return fail("{} is an adapter: expected the model that it goes with, and --lora {}",
                  directory, directory);
    return fail("{} is not a model: expected config.json in it, found none", directory);
  }
  constexpr std::int64_t kBytesMax = 16 << 20;
  M3_TRY(const std::string text, read_text_file(path.string(), kBytesMax));
  M3_TRY(Config config, parse_config(text, path.string()));
  const fs::path modelopt = fs::path(directory) / "hf_quant_config.json";
  if (fs::exists(modelopt, error)) {
    M3_TRY(const std::string more, read_text_file(modelopt.string(), kBytesMax));
    M3_TRY_STATUS(parse_hf_quantization(more, modelopt.string(), config));
  }
  return config;
}

}  // namespace m3
