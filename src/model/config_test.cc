#include "model/config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/test_support.h"
#include "model/presets.h"

namespace m3 {
namespace {

using Json = nlohmann::json;

Json nano() {
  return Json::parse(nano_config());
}

// The text model of nano as a config of its own.
Json flat() {
  return nano()["text_config"];
}

Result<Config> parse(const Json& json) {
  return parse_config(json.dump(), "config.json");
}

// nano with one field changed; null means as if it were missing.
Json with(std::string_view pointer, Json value) {
  Json json = nano();
  json[Json::json_pointer(std::string(pointer))] = std::move(value);
  return json;
}

Json text_with(std::string_view key, Json value) {
  return with(fmt::format("/text_config/{}", key), std::move(value));
}

Json sparse_with(std::string_view key, Json value) {
  return with(fmt::format("/text_config/sparse_attention_config/{}", key), std::move(value));
}

Config parsed(const Json& json) {
  auto config = parse(json);
  EXPECT_TRUE(config) << config.error().message;
  return config ? std::move(*config) : Config{};
}

// In transformers' own spelling.
Json native() {
  Json json = nano();
  Json& text = json["text_config"];
  text.erase("sparse_attention_config");
  text.erase("moe_layer_freq");
  text.erase("rope_theta");
  text.erase("rotary_dim");
  text.erase("partial_rotary_factor");
  text.update({{"hidden_act", "silu"},
               {"index_n_heads", 2},
               {"index_head_dim", 32},
               {"index_block_size", 16},
               {"index_topk_blocks", 4},
               {"index_local_blocks", 1},
               {"rope_parameters",
                {{"rope_theta", 5e6}, {"rope_type", "default"}, {"partial_rotary_factor", 0.5}}}});
  text["layer_types"] = {"full_attention", "minimax_m3_sparse", "minimax_m3_sparse",
                         "minimax_m3_sparse"};
  text["mlp_layer_types"] = {"dense", "sparse", "sparse", "sparse"};
  return json;
}

void expect_same_model(const Config& a, const Config& b) {
  EXPECT_EQ(a.hidden, b.hidden);
  EXPECT_EQ(a.rotary_dim, b.rotary_dim);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(a.positions_max, b.positions_max);
  EXPECT_EQ(a.moe_layers, b.moe_layers);
  EXPECT_EQ(a.sparse_layers, b.sparse_layers);
  EXPECT_EQ(a.index_heads, b.index_heads);
  EXPECT_EQ(a.index_dim, b.index_dim);
  EXPECT_EQ(a.block_tokens, b.block_tokens);
  EXPECT_EQ(a.selection.topk, b.selection.topk);
  EXPECT_EQ(a.selection.local_blocks, b.selection.local_blocks);
  EXPECT_EQ(a.shared_inner, b.shared_inner);
}

std::string model_directory(std::string_view name) {
  return fmt::format("{}/tests/data/models/{}", M3_SOURCE_DIR, name);
}

// ---------------------------------------------------------------------------------- what is read

TEST(Config, ReadsTheReleasedModel) {
  const auto config = load_config(model_directory("released"));
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->hidden, 6144);
  EXPECT_EQ(config->layers, 60);
  EXPECT_EQ(config->heads, 64);
  EXPECT_EQ(config->kv_heads, 4);
  EXPECT_EQ(config->head_dim, 128);
  EXPECT_EQ(config->vocab, 200064);
  EXPECT_EQ(config->positions_max, 1048576);
  EXPECT_EQ(config->rotary_dim, 64);
  EXPECT_FALSE(config->yarn);
  EXPECT_EQ(config->dense_inner, 12288);
  EXPECT_EQ(config->expert_inner, 3072);
  EXPECT_EQ(config->shared_inner, 3072);
  EXPECT_EQ(config->moe_layer_count(), 57);
  EXPECT_EQ(config->sparse_layer_count(), 57);
  EXPECT_FALSE(config->moe_layers[2]);
  EXPECT_TRUE(config->moe_layers[3]);
  EXPECT_EQ(config->routed_scale, 2);
  EXPECT_TRUE(config->router_bias);
  EXPECT_EQ(config->mtp_modules, 7);
  EXPECT_EQ(config->mtp_chain, MtpChain::kPreNorm);
  EXPECT_EQ(config->image_token, 200025);
  EXPECT_EQ(config->video_token, 200026);
  EXPECT_FALSE(config->flat);
  EXPECT_EQ(config->quantisation.linears, Format::kBF16);
  ASSERT_TRUE(config->vision);
  EXPECT_EQ(config->vision->layers, 32);
  EXPECT_EQ(config->vision->projector_hidden, 6144);
  EXPECT_TRUE(config->vision->merge_bias);  // absent: as the projector's
  EXPECT_EQ(config->warnings, std::vector<std::string>{});
}

TEST(Config, ReadsEverySmallModelWithoutWarnings) {
  for (const char* name : {"nano", "nano-mxfp8", "smooth", "heads", "lists", "yarn", "flat",
                           "nano-mtp", "train", "train-smooth"}) {
    const auto config = load_config(model_directory(name));
    ASSERT_TRUE(config) << config.error().message;
    EXPECT_EQ(config->warnings, std::vector<std::string>{}) << name;
  }
}

TEST(Config, ListsOfAttentionAndExpertsAreIndependent) {
  const auto config = load_config(model_directory("lists"));
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->moe_layers, (std::vector<bool>{true, false, true, true, false}));
  EXPECT_EQ(config->sparse_layers, (std::vector<bool>{true, true, false, true, false}));
}

TEST(Config, AFlatConfigIsTheSameTextModel) {
  const Config config = parsed(flat());
  expect_same_model(config, parsed(nano()));
  EXPECT_TRUE(config.flat);
  EXPECT_FALSE(config.vision);
}

TEST(Config, TheNativeSpellingIsTheSameModel) {
  expect_same_model(parsed(native()), parsed(nano()));
}

TEST(Config, TheTextLevelWinsOverTheTopLevel) {
  EXPECT_EQ(parsed(with("/vocab_size", 512)).vocab, 4096);
  Json json = with("/vocab_size", 4096);
  json["text_config"].erase("vocab_size");
  EXPECT_EQ(parsed(json).vocab, 4096);
}

TEST(Config, RopeParametersWinOverTheFlatFields) {
  const Config config =
      parsed(text_with("rope_parameters", {{"rope_theta", 1e4}, {"partial_rotary_factor", 0.25}}));
  EXPECT_EQ(config.rope_theta, 1e4);
  EXPECT_EQ(config.rotary_dim, 8);
}

TEST(Config, MissingListsHaveTheirDocumentedMeaning) {
  EXPECT_EQ(parsed(text_with("moe_layer_freq", nullptr)).moe_layer_count(), 4);
  EXPECT_EQ(parsed(text_with("sparse_attention_config", nullptr)).sparse_layer_count(), 0);
  const Config dense = parsed(sparse_with("sparse_attention_freq", nullptr));
  EXPECT_EQ(dense.sparse_layer_count(), 0);
  ASSERT_EQ(dense.warnings.size(), 1u);
  EXPECT_NE(dense.warnings[0].find("sparse_attention_freq"), std::string::npos);
  const Config off = parsed(sparse_with("use_sparse_attention", false));
  EXPECT_EQ(off.sparse_layer_count(), 0);
  EXPECT_TRUE(off.sparse_switched_off);
}

TEST(Config, Defaults) {
  EXPECT_EQ(parsed(sparse_with("sparse_local_block", nullptr)).selection.local_blocks, 1);
  EXPECT_EQ(parsed(sparse_with("sparse_init_block", nullptr)).selection.init_blocks, 0);
  EXPECT_EQ(parsed(text_with("n_shared_experts", nullptr)).shared_inner, 0);
  EXPECT_EQ(parsed(text_with("shared_intermediate_size", nullptr)).shared_inner, 64);
  EXPECT_EQ(parsed(text_with("n_shared_experts", 3)).shared_inner, 192);
  EXPECT_EQ(parsed(text_with("swiglu_limit", nullptr)).swiglu.limit, 7.0f);
  EXPECT_EQ(parsed(text_with("swiglu_beta", 0.5)).swiglu.beta, 0.5f);
  EXPECT_EQ(parsed(text_with("mtp_chain", "post_norm")).mtp_chain, MtpChain::kPostNorm);
  EXPECT_EQ(parsed(text_with("scoring_func", "softmax")).router_score, RouterScore::kSoftmax);
}

TEST(Config, NumExpertsIsAnotherNameForNumLocalExperts) {
  Json json = text_with("num_experts", 16);
  json["text_config"].erase("num_local_experts");
  EXPECT_EQ(parsed(json).experts, 16);
}

TEST(Config, LseScalesItsScores) {
  EXPECT_EQ(parsed(nano()).selection.scale, 1);
  const Config config = parsed(sparse_with("sparse_score_type", "lse"));
  EXPECT_EQ(config.selection.score_type, ScoreType::kLse);
  EXPECT_FLOAT_EQ(config.selection.scale, 1 / std::sqrt(32.0f));
}

TEST(Config, UnknownFieldsAreOneWarning) {
  Json json = text_with("sliding_window", 7);
  json["frobnicate"] = 1;
  json["vision_config"]["colour"] = "blue";
  json["text_config"]["rope_scaling"] = {{"rope_type", "default"}, {"factro", 2}};
  const Config config = parsed(json);
  ASSERT_EQ(config.warnings.size(), 1u);
  for (const char* name : {"text_config.sliding_window", "frobnicate", "vision_config.colour",
                           "text_config.rope_scaling.factro"})
    EXPECT_NE(config.warnings[0].find(name), std::string::npos) << config.warnings[0];
}

// ------------------------------------------------------------------------------------------ YaRN

TEST(Yarn, StretchesThePositions) {
  const Config config = parsed(text_with(
      "rope_scaling",
      {{"rope_type", "yarn"}, {"factor", 2.5}, {"original_max_position_embeddings", 1001}}));
  ASSERT_TRUE(config.yarn);
  EXPECT_EQ(config.yarn->factor, 2.5);
  EXPECT_EQ(config.yarn->original_positions, 1001);
  EXPECT_EQ(config.positions_max, 2502);  // 2502.5, cut
  EXPECT_NEAR(config.yarn->attention_factor, 0.1 * std::log(2.5) + 1, 1e-15);
  EXPECT_EQ(config.yarn->beta_fast, 32);
  EXPECT_EQ(config.yarn->beta_slow, 1);
  EXPECT_TRUE(config.yarn->truncate);
}

TEST(Yarn, OlderNameOfTheTypeAndMissingOriginal) {
  const Config config = parsed(text_with("rope_scaling", {{"type", "yarn"}, {"factor", 2}}));
  ASSERT_TRUE(config.yarn);
  EXPECT_EQ(config.yarn->original_positions, 4096);
  EXPECT_EQ(config.positions_max, 8192);
}

TEST(Yarn, Overrides) {
  Json scaling = {{"rope_type", "yarn"}, {"factor", 4}, {"beta_fast", 16},    {"beta_slow", 2},
                  {"truncate", false},   {"mscale", 2}, {"mscale_all_dim", 1}};
  const Config config = parsed(text_with("rope_scaling", scaling));
  EXPECT_EQ(config.yarn->beta_fast, 16);
  EXPECT_EQ(config.yarn->beta_slow, 2);
  EXPECT_FALSE(config.yarn->truncate);
  EXPECT_NEAR(config.yarn->attention_factor, (0.2 * std::log(4) + 1) / (0.1 * std::log(4) + 1),
              1e-15);
  scaling["attention_factor"] = 1.5;
  EXPECT_EQ(parsed(text_with("rope_scaling", scaling)).yarn->attention_factor, 1.5);
}

TEST(Yarn, DefaultTypeScalesNothing) {
  EXPECT_FALSE(parsed(text_with("rope_scaling", {{"rope_type", "default"}})).yarn);
}

TEST(Yarn, OutsideOfTheTextConfigItDoesNotReachTheDecoder) {
  const Config config = parsed(with("/rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}}));
  EXPECT_FALSE(config.yarn);
  ASSERT_EQ(config.warnings.size(), 1u);
  EXPECT_NE(config.warnings[0].find("rope_scaling"), std::string::npos);
}

TEST(Yarn, RefusesWhatItCannotBe) {
  const auto refuse = [](const Json& scaling, std::initializer_list<std::string_view> parts) {
    SCOPED_TRACE(scaling.dump());
    expect_error(parse(text_with("rope_scaling", scaling)), parts);
  };
  refuse({{"rope_type", "llama3"}, {"factor", 2}}, {"llama3", "default, yarn"});
  refuse({{"rope_type", "yarn"}}, {"rope_scaling.factor", "missing"});
  refuse({{"factor", 2}}, {"rope_type", "missing"});
  refuse({{"rope_type", "yarn"}, {"factor", 0.5}}, {"rope_scaling.factor", "0.5"});
  refuse({{"rope_type", "yarn"}, {"factor", 1e6}}, {"rope_scaling.factor", "4096"});
  refuse({{"rope_type", "yarn"}, {"factor", 2}, {"original_max_position_embeddings", 0}},
         {"original_max_position_embeddings"});
  Json both = text_with("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}});
  both["text_config"]["rope_parameters"] = {{"rope_type", "default"}};
  expect_error(parse(both), {"rope_parameters", "rope_scaling"});
}

// ---------------------------------------------------------------------------------- quantisation

TEST(Quantization, IsReadAtEitherLevel) {
  const Json mxfp8 = {{"quant_method", "mxfp8"},
                      {"activation_scheme", "dynamic"},
                      {"weight_block_size", {1, 32}},
                      {"ignored_layers", {"lm_head", "vision_tower"}}};
  for (const char* place : {"/quantization_config", "/text_config/quantization_config"}) {
    const Config config = parsed(with(place, mxfp8));
    EXPECT_EQ(config.quantisation.linears, Format::kMxfp8);
    EXPECT_EQ(config.quantisation.ignored,
              (std::set<std::string, std::less<>>{"lm_head", "vision_tower"}));
    EXPECT_EQ(config.warnings, std::vector<std::string>{});
  }
  Json renamed = mxfp8;
  renamed.erase("ignored_layers");
  renamed["modules_to_not_convert"] = {"lm_head"};
  EXPECT_EQ(parsed(with("/quantization_config", renamed)).quantisation.ignored.size(), 1u);
}

TEST(Quantization, PublicForms) {
  const Quantisation mixed =
      parsed(with("/quantization_config", {{"quant_method", "mxfp8"},
                                           {"activation_scheme", "dynamic"},
                                           {"moe_quant_algo", "NVFP4"},
                                           {"moe_quant_format", "nvfp4-pack-quantized"}}))
          .quantisation;
  EXPECT_EQ(mixed.linears, Format::kMxfp8);
  EXPECT_EQ(mixed.experts, Format::kNvfp4);
  const Config modelopt =
      parsed(with("/quantization_config",
                  {{"quant_method", "modelopt"},
                   {"quant_algo", "NVFP4"},
                   {"producer", {{"name", "modelopt"}, {"version", "0.40"}}},
                   {"config_groups", {{"group_0", Json::object()}}},
                   {"ignore", {"lm_head", "*self_attn*", "language_model.model.layers.0"}}}));
  EXPECT_EQ(modelopt.quantisation.linears, Format::kNvfp4);
  EXPECT_EQ(modelopt.quantisation.ignored_globs, std::vector<std::string>{"*self_attn*"});
  EXPECT_TRUE(modelopt.quantisation.ignored.contains("model.layers.0"));
  EXPECT_EQ(modelopt.warnings, std::vector<std::string>{});
  for (const char* method : {"mxfp4", "int8"})
    EXPECT_EQ(
        codec_of(
            parsed(with("/quantization_config", {{"quant_method", method}})).quantisation.linears)
            .name,
        method);
}

TEST(Quantization, HfQuantConfigBesideTheConfig) {
  const TestDirectory directory;
  directory.write("config.json",
                  with("/quantization_config", {{"quant_method", "modelopt"}}).dump());
  EXPECT_EQ(load_config(directory.path())->quantisation.linears, Format::kBF16);
  const Json expert = {{"quant_algo", "NVFP4"}, {"group_size", 16}};
  const Json layers = {{"language_model.model.layers.1.block_sparse_moe.experts.2.w1", expert},
                       {"model.language_model.layers.0.mlp", {{"quant_algo", "MXFP8"}}}};
  const Json quantization = {{"quant_algo", "MIXED_PRECISION"},
                             {"kv_cache_quant_algo", nullptr},
                             {"exclude_modules", {"lm_head"}},
                             {"quantized_layers", layers}};
  const std::string name = "hf_quant_config.json";
  directory.write(name, Json{{"producer", {{"name", "x"}}}, {"quantization", quantization}}.dump());
  const auto config = load_config(directory.path());
  ASSERT_TRUE(config) << config.error().message;
  const Quantisation& said = config->quantisation;
  EXPECT_EQ(said.linears, Format::kBF16);
  EXPECT_EQ(said.modules.at("model.layers.1.block_sparse_moe.experts.2.w1"), Format::kNvfp4);
  EXPECT_EQ(said.modules.at("model.layers.0.mlp"), Format::kMxfp8);
  EXPECT_TRUE(said.ignored.contains("lm_head"));
  directory.write(name, R"({"quantization": {"quant_algo": "W8A8"}})");
  expect_error(load_config(directory.path()), {name, "W8A8", "NVFP4"});
  directory.write(name, "{");
  expect_error(load_config(directory.path()), {name, "JSON"});
}

TEST(Quantization, RefusesOtherMethods) {
  const auto refuse = [](const Json& json, std::initializer_list<std::string_view> parts) {
    SCOPED_TRACE(json.dump());
    expect_error(parse(with("/quantization_config", json)), parts);
  };
  refuse({{"quant_method", "compressed-tensors"}}, {"compressed-tensors", "mxfp8", "modelopt"});
  refuse({{"quant_method", "modelopt"}, {"quant_algo", "FP8"}}, {"FP8", "NVFP4"});
  refuse({{"quant_method", "modelopt"}, {"quantized_layers", {{"a", {{"quant_algo", "W4A8"}}}}}},
         {"quantized_layers.a.quant_algo", "W4A8"});
  refuse({{"quant_method", "modelopt"}, {"quantized_layers", {{"a", 1}}}}, {"object"});
  const Json many(257, "*x");
  refuse({{"quant_method", "modelopt"}, {"ignore", many}}, {"257", "patterns"});
  refuse({{"activation_scheme", "dynamic"}}, {"quant_method", "missing"});
  refuse({{"quant_method", "mxfp8"}, {"activation_scheme", "static"}}, {"static", "dynamic"});
  refuse({{"quant_method", "mxfp8"}, {"weight_block_size", {128, 128}}}, {"[1, 32]"});
  refuse({{"quant_method", "mxfp8"}, {"weight_block_size", "1x32"}}, {"weight_block_size"});
  refuse({{"quant_method", "mxfp8"}, {"moe_quant_algo", "W4A8"}}, {"W4A8", "NVFP4"});
  refuse({{"quant_method", "mxfp8"}, {"moe_quant_format", "packed"}}, {"packed", "nvfp4-pack"});
  refuse({{"quant_method", "mxfp8"}, {"ignored_layers", {1}}}, {"ignored_layers"});
  refuse("mxfp8", {"quantization_config", "object"});
}

// ----------------------------------------------------------------------------- violated rules

TEST(ConfigRules, EachHasItsSentence) {
  const auto refuse = [](const Json& json, std::initializer_list<std::string_view> parts) {
    expect_error(parse(json), parts);
  };
  refuse(text_with("num_attention_heads", 7), {"num_attention_heads 7", "num_key_value_heads 2"});
  refuse(sparse_with("sparse_num_index_heads", 4), {"sparse_num_index_heads is 4", "2"});
  refuse(text_with("head_dim", nullptr), {"text_config.head_dim is missing"});
  refuse(text_with("rotary_dim", 12), {"rotary_dim"});
  refuse(text_with("partial_rotary_factor", 0.25), {"rotary_dim", "0.25"});
  refuse(sparse_with("sparse_index_dim", 8), {"rotary_dim is 16", "sparse_index_dim"});
  refuse(sparse_with("sparse_topk_blocks", 0), {"sparse_topk_blocks"});
  refuse(sparse_with("sparse_init_block", 4), {"sparse_topk_blocks is 4", "4 initial", "1 local"});
  refuse(sparse_with("sparse_local_block", 5), {"5 local"});
  refuse(text_with("hidden_act", "gelu"), {"hidden_act", "gelu", "swigluoai"});
  refuse(text_with("hidden_act", "silu"), {"hidden_act", "silu", "swigluoai"});
  refuse(text_with("hidden_act", nullptr), {"hidden_act"});
  refuse(text_with("attention_output_gate", true), {"attention_output_gate"});
  refuse(text_with("qk_norm_type", "per_layer"), {"per_layer", "per_head"});
  refuse(text_with("use_qk_norm", false), {"use_qk_norm"});
  refuse(text_with("use_gemma_norm", false), {"use_gemma_norm"});
  refuse(text_with("tie_word_embeddings", true), {"tie_word_embeddings"});
  refuse(with("/tie_word_embeddings", true), {"tie_word_embeddings"});
  refuse(text_with("use_index_cache", true), {"use_index_cache"});
  refuse(sparse_with("sparse_score_type", "mean"), {"mean", "max, lse"});
  refuse(text_with("scoring_func", "relu"), {"relu", "sigmoid, softmax"});
  refuse(text_with("router_dtype", "float16"), {"float16", "float32, bfloat16"});
  refuse(text_with("num_experts_per_tok", 17), {"num_experts_per_tok is 17", "16"});
  refuse(text_with("num_local_experts", 60000), {"num_local_experts 60000"});
  refuse(with("/architectures", {"LlamaForCausalLM"}), {"LlamaForCausalLM", "MiniMaxM3"});
  refuse(with("/vision_config/num_attention_heads", 3), {"vision_config.hidden_size", "3"});
  refuse(with("/vision_config/hidden_act", "silu"), {"vision_config.hidden_act", "gelu"});
  refuse(with("/vision_feature_layer", -2), {"vision_feature_layer"});
  refuse(with("/image_token_index", 4096), {"image_token_index", "4095"});
  refuse(with("/image_token_index", 4058), {"image_token_index and video_token_index", "4058"});
}

TEST(ConfigRules, Lists) {
  const auto refuse = [](const Json& json, std::initializer_list<std::string_view> parts) {
    expect_error(parse(json), parts);
  };
  refuse(text_with("moe_layer_freq", {0, 1, 1}), {"moe_layer_freq", "3 entries", "4 layers"});
  refuse(text_with("moe_layer_freq", {0, 1, 1, 2}), {"entry 3", "moe_layer_freq", "2"});
  refuse(text_with("moe_layer_freq", 1), {"moe_layer_freq", "list"});
  refuse(sparse_with("sparse_attention_freq", {0, 1, 1, 1, 1}), {"sparse_attention_freq", "5"});
  refuse(sparse_with("sparse_attention_freq", {0, 1, 1, "1"}), {"sparse_attention_freq"});
  refuse(sparse_with("sparse_disable_index_value", {0, 1, 0, 1}),
         {"sparse_disable_index_value", "layer 2"});
  refuse(text_with("layer_types",
                   {"full_attention", "minimax_m3_sparse", "full_attention", "minimax_m3_sparse"}),
         {"layer_types", "sparse_attention_freq", "layer 2"});
  refuse(text_with("layer_types", {"a", "b", "c", "d"}), {"layer_types", "minimax_m3_sparse"});
  refuse(text_with("mlp_layer_types", {"sparse", "sparse", "sparse", "sparse"}),
         {"mlp_layer_types", "moe_layer_freq", "layer 0"});
  refuse(text_with("index_head_dim", 64), {"index_head_dim", "sparse_index_dim"});
  Json incomplete = native();
  incomplete["text_config"].erase("index_block_size");
  refuse(incomplete, {"index_block_size is missing"});
}

TEST(ConfigTypes, WhatIsNoIntegerIsRefused) {
  for (const Json& value : {Json(128.0), Json("128"), Json(-1), Json(0), Json(1e30), Json(true),
                            Json(std::uint64_t{1} << 63), Json::array({128}), Json::object()}) {
    SCOPED_TRACE(value.dump());
    expect_error(parse(text_with("hidden_size", value)), {"text_config.hidden_size", "integer"});
    expect_error(parse(text_with("num_hidden_layers", value)), {"num_hidden_layers"});
    expect_error(parse(text_with("vocab_size", value)), {"vocab_size"});
  }
}

TEST(ConfigTypes, OtherTypesAreCheckedToo) {
  expect_error(parse(text_with("rms_norm_eps", "1e-6")), {"rms_norm_eps", "number"});
  expect_error(parse(text_with("use_routing_bias", 1)), {"use_routing_bias", "true or false"});
  expect_error(parse(text_with("hidden_act", 3)), {"hidden_act"});
  expect_error(parse(text_with("sparse_attention_config", {1})), {"sparse_attention_config"});
  expect_error(parse(with("/text_config", "x")), {"text_config", "object"});
  expect_error(parse(with("/vision_config", 3)), {"vision_config", "object"});
}

TEST(ConfigTypes, WhatIsNoConfigIsRefused) {
  expect_error(parse_config("", "there"), {"there", "JSON"});
  expect_error(parse_config("{", "there"), {"there", "JSON"});
  expect_error(parse_config("[]", "there"), {"there", "object"});
  expect_error(parse_config("{}", "there"), {"there", "missing"});
  expect_error(parse_config("null", "there"), {"there"});
  expect_error(parse_config(std::string(100000, '['), "there"), {"there", "JSON"});
  expect_error(parse_config(R"({"text_config": {"hidden_size": 1e999}})", "there"), {"there"});
}

TEST(LoadConfig, ADirectoryThatIsNoModel) {
  const TestDirectory directory;
  expect_error(load_config(directory.path()), {directory.path(), "not a model", "config.json"});
  expect_error(load_config(directory / "absent"), {"absent", "not a model"});
  expect_error(load_config(directory.write("file", "")), {"file", "not a model"});
  directory.write("config.json", "{");
  expect_error(load_config(directory.path()), {"config.json", "JSON"});
}

}  // namespace
}  // namespace m3
