#include "model/presets.h"

#include <nlohmann/json.hpp>

#include "model/config.h"

namespace m3 {
namespace {

using Json = nlohmann::ordered_json;

// 0 for each dense layer, then 1 for each sparse MoE layer.
Json layer_list(std::int64_t zeros, std::int64_t ones) {
  Json list = Json::array();
  for (std::int64_t i = 0; i < zeros + ones; ++i) list.push_back(i < zeros ? 0 : 1);
  return list;
}

void set_layers(Json& text, std::int64_t dense, std::int64_t moe) {
  text["num_hidden_layers"] = dense + moe;
  text["moe_layer_freq"] = layer_list(dense, moe);
  Json& sparse = text["sparse_attention_config"];
  sparse["sparse_attention_freq"] = layer_list(dense, moe);
  sparse["sparse_disable_index_value"] = layer_list(dense, moe);
}

// spec: text-model §1.2, §1.3.
Json released_text() {
  Json text = Json::parse(R"({
    "architectures": ["MiniMaxM3SparseForCausalLM"],
    "hidden_size": 6144,
    "num_hidden_layers": 60,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 200064,
    "max_position_embeddings": 1048576,
    "rms_norm_eps": 1e-06,
    "use_gemma_norm": true,
    "attention_output_gate": false,
    "use_qk_norm": true,
    "qk_norm_type": "per_head",
    "hidden_act": "swigluoai",
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
    "intermediate_size": 3072,
    "dense_intermediate_size": 12288,
    "shared_intermediate_size": 3072,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "scoring_func": "sigmoid",
    "use_routing_bias": true,
    "routed_scaling_factor": 2.0,
    "moe_layer_freq": [],
    "rope_theta": 5000000,
    "rotary_dim": 64,
    "partial_rotary_factor": 0.5,
    "tie_word_embeddings": false,
    "num_mtp_modules": 0,
    "torch_dtype": "bfloat16",
    "sparse_attention_config": {
      "use_sparse_attention": true,
      "sparse_attention_freq": [],
      "sparse_index_dim": 128,
      "sparse_num_index_heads": 4,
      "sparse_topk_blocks": 16,
      "sparse_block_size": 128,
      "sparse_score_type": "max",
      "sparse_init_block": 0,
      "sparse_local_block": 1,
      "sparse_disable_index_value": []
    }
  })");
  set_layers(text, 3, 57);
  return text;
}

// spec: vision §1.
Json released_vision() {
  return Json::parse(R"({
    "model_type": "clip_vision_model",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 2016,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-05,
    "position_embedding_type": "rope",
    "rope_mode": "3d",
    "rope_theta": 10000.0,
    "projection_dim": 6144,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "img_token_compression_config": {
      "image_token_compression_method": "patch_merge",
      "spatial_merge_size": 2,
      "temporal_patch_size": 2
    },
    "vision_segment_max_frames": 4
  })");
}

// The wrapper of both. The 64 last ids are the added tokens, among them the two placeholders.
Json wrapped(Json text, Json vision) {
  const std::int64_t first_added = text["vocab_size"].get<std::int64_t>() - 64;
  Json top;
  top["architectures"] = {"MiniMaxM3SparseForConditionalGeneration"};
  top["model_type"] = "minimax_m3_vl";
  top["image_token_index"] = first_added + 25;
  top["video_token_index"] = first_added + 26;
  top["image_seq_length"] = 576;
  top["process_image_mode"] = "dynamic_res";
  top["projector_hidden_act"] = "gelu";
  top["projector_hidden_size"] = text["hidden_size"];
  top["multimodal_projector_bias"] = true;
  top["patch_merge_bias"] = true;
  top["vision_feature_layer"] = -1;
  top["vision_feature_select_strategy"] = "full";
  top["img_token_compression_config"] = vision["img_token_compression_config"];
  top["vision_segment_max_frames"] = 4;
  top["torch_dtype"] = "bfloat16";
  top["num_reward_heads"] = 0;
  top["text_config"] = std::move(text);
  top["vision_config"] = std::move(vision);
  return top;
}

std::string written(const Json& json) {
  return json.dump(2) + "\n";
}

}  // namespace

std::string nano_config() {
  Json text = released_text();
  text.update(Json::parse(R"({"hidden_size": 128, "num_attention_heads": 8,
      "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 4096,
      "max_position_embeddings": 4096, "intermediate_size": 64, "dense_intermediate_size": 256,
      "shared_intermediate_size": 64, "num_local_experts": 16, "rotary_dim": 16})"));
  text["sparse_attention_config"].update(Json::parse(R"({"sparse_index_dim": 32,
      "sparse_num_index_heads": 2, "sparse_topk_blocks": 4, "sparse_block_size": 16})"));
  set_layers(text, 1, 3);
  Json vision = released_vision();
  vision.update(Json::parse(R"({"hidden_size": 160, "intermediate_size": 320,
      "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 128})"));
  return written(wrapped(std::move(text), std::move(vision)));
}

Result<std::string> slice_config(const SliceOptions& options) {
  constexpr std::int64_t kLayersMax = 10000;
  for (const std::int64_t layers :
       {options.dense_layers, options.moe_layers, options.vision_layers})
    if (layers < 0 || layers > kLayersMax)
      return fail("a slice of {} dense, {} MoE and {} vision layers; expected 0 to {} of each",
                  options.dense_layers, options.moe_layers, options.vision_layers, kLayersMax);
  Json text = released_text();
  text["vocab_size"] = options.vocab;
  text["num_local_experts"] = options.experts;
  set_layers(text, options.dense_layers, options.moe_layers);
  if (options.vision_layers > 0) {
    if (options.vocab < 64) return fail("a slice with vision needs a vocabulary of 64 ids or more");
    Json vision = released_vision();
    vision["num_hidden_layers"] = options.vision_layers;
    text = wrapped(std::move(text), std::move(vision));
  }
  std::string config = written(text);
  if (auto parsed = parse_config(config, "the slice"); !parsed) return pass(std::move(parsed));
  return config;
}

}  // namespace m3
