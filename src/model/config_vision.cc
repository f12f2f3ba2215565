#include "model/config_readers.h"

namespace m3 {
namespace {

constexpr std::string_view kIgnored[] = {"_name_or_path",
                                         "architectures",
                                         "attention_dropout",
                                         "chunk_size_feed_forward",
                                         "dtype",
                                         "id2label",
                                         "initializer_range",
                                         "is_encoder_decoder",
                                         "label2id",
                                         "model_type",
                                         "output_attentions",
                                         "output_hidden_states",
                                         "problem_type",
                                         "projection_dim",
                                         "return_dict",
                                         "torch_dtype",
                                         "transformers_version",
                                         "vocab_size"};

// How patches become tokens. The inner copy counts, then the outer one, then transformers' flat
// fields (spec: vision §1.1).
void read_compression(Fields& vision, Fields& top, VisionConfig& v) {
  constexpr std::string_view kKey = "img_token_compression_config";
  constexpr IntegerRange kSpatial{1, 64};
  constexpr IntegerRange kTemporal{1, 64};
  v.spatial_merge = vision.integer("spatial_merge_size", kSpatial, v.spatial_merge);
  v.temporal_patch = vision.integer("temporal_patch_size", kTemporal, v.temporal_patch);
  auto inner = vision.object(kKey);
  auto outer = top.object(kKey);
  for (auto* object : {&outer, &inner}) {
    if (!*object) continue;
    (*object)->require_text("image_token_compression_method", "patch_merge");
    v.spatial_merge = (*object)->integer("spatial_merge_size", kSpatial, v.spatial_merge);
    v.temporal_patch = (*object)->integer("temporal_patch_size", kTemporal, v.temporal_patch);
    (*object)->note_unread();
  }
}

void read_tower(Fields& vision, VisionConfig& v) {
  v.hidden = vision.integer("hidden_size", {1, kWidthMax});
  v.heads = vision.integer("num_attention_heads", {1, kWidthMax});
  v.layers = vision.integer("num_hidden_layers", {1, kLayersMax});
  v.inner = vision.integer("intermediate_size", {1, kWidthMax});
  v.patch = vision.integer("patch_size", {1, 1024}, v.patch);
  v.channels = vision.integer("num_channels", {1, 16}, v.channels);
  v.image_size = vision.integer("image_size", {1, 1 << 20}, 2016);
  v.norm_eps = vision.number("layer_norm_eps", {0, 1}, v.norm_eps);
  v.rope_theta = vision.number("rope_theta", {1, 1e12}, v.rope_theta);
  if (auto rope = vision.object("rope_parameters"))
    v.rope_theta = rope->number("rope_theta", {1, 1e12}, v.rope_theta);
  vision.require_text("hidden_act", "gelu");
  vision.require_text("position_embedding_type", "rope");
  vision.require_text("rope_mode", "3d");
}

void read_projector(Fields& top, std::int64_t hidden, VisionConfig& v) {
  v.projector_hidden = top.integer("projector_hidden_size", {0, kWidthMax}, 0);
  if (v.projector_hidden == 0) v.projector_hidden = hidden;
  v.projector_bias = top.boolean("multimodal_projector_bias", true);
  v.merge_bias = top.boolean("patch_merge_bias", v.projector_bias);
  top.require_text("projector_hidden_act", "gelu");
  top.require_text("vision_feature_select_strategy", "full");
  if (top.integer("vision_feature_layer", {-10000, 10000}, -1) != -1)
    top.reading().mistake("vision_feature_layer is not -1; only the last layer is supported");
}

// The placeholder ids, under either of their names.
std::int32_t token(Fields& top, std::string_view name, std::string_view native,
                   std::int64_t vocab) {
  const IntegerRange ids{0, vocab - 1};
  return static_cast<std::int32_t>(top.has(name) ? top.integer(name, ids)
                                                 : top.integer(native, ids, -1));
}

}  // namespace

void read_vision(Fields& top, Config& config) {
  config.image_token = token(top, "image_token_index", "image_token_id", config.vocab);
  config.video_token = token(top, "video_token_index", "video_token_id", config.vocab);
  if (config.image_token >= 0 && config.image_token == config.video_token)
    top.reading().mistake("image_token_index and video_token_index are both {}",
                          config.image_token);
  auto vision = top.object("vision_config");
  VisionConfig v;
  v.segment_frames = top.integer("vision_segment_max_frames", {1, 1 << 16}, v.segment_frames);
  read_projector(top, config.hidden, v);
  if (!vision) return;
  v.segment_frames = vision->integer("vision_segment_max_frames", {1, 1 << 16}, v.segment_frames);
  read_tower(*vision, v);
  read_compression(*vision, top, v);
  vision->ignore(kIgnored);
  vision->note_unread();
  config.vision = v;
}

}  // namespace m3
