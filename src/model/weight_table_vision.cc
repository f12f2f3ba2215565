#include <cmath>

#include "model/weight_table_builder.h"

namespace m3 {
namespace {

constexpr Init kNormWeight{1, 0.2};
constexpr Init kBias{0, 0.1};
constexpr double kSharp = 1.5;

void add_norm(const TableBuilder& table, const std::string& name, std::int64_t size) {
  table.vector(name + ".weight", size, kNormWeight, nullptr);
  table.vector(name + ".bias", size, kBias, nullptr);
}

void add_linear(const TableBuilder& table, const std::string& name, std::int64_t rows,
                std::int64_t cols, double gain, bool bias = true) {
  table.linear(name, rows, cols, {Split::kReplicated, Group::kNone, gain, /*quantised=*/false},
               nullptr);
  if (bias) table.vector(name + ".bias", rows, kBias, nullptr);
}

// The stem is a convolution over [frames, height, width] that never overlaps: a linear by another
// shape. Stored in float32.
void add_patch_embedding(const TableBuilder& tower, const VisionConfig& v) {
  const std::int64_t fan = v.channels * v.temporal_patch * v.patch * v.patch;
  const TableBuilder table = tower.inside("embeddings.patch_embedding.", "embeddings.proj.");
  WeightSpec& spec =
      table.weight("weight", {v.hidden, v.channels, v.temporal_patch, v.patch, v.patch},
                   {0, 1 / std::sqrt(static_cast<double>(fan))});
  spec.stored = DType::kF32;
}

void add_encoder_layer(const TableBuilder& table, const VisionConfig& v) {
  add_norm(table, "layer_norm1", v.hidden);
  for (const char* name : {"q_proj", "k_proj", "v_proj", "out_proj"})
    add_linear(table, fmt::format("self_attn.{}", name), v.hidden, v.hidden, kSharp);
  add_norm(table, "layer_norm2", v.hidden);
  add_linear(table, "mlp.fc1", v.inner, v.hidden, 1);
  add_linear(table, "mlp.fc2", v.hidden, v.inner, 1);
}

// Projector first, then the merger of spatial_merge² neighbours.
void add_projector(std::vector<WeightSpec>& table, const VisionConfig& v, std::int64_t text) {
  const std::string native = "model.multi_modal_projector.";
  const TableBuilder projector(table, Part::kVision, "multi_modal_projector.linear_",
                               native + "linear_");
  const TableBuilder merger(table, Part::kVision, "patch_merge_mlp.linear_",
                            native + "merge_linear_");
  const std::int64_t merged = v.spatial_merge * v.spatial_merge * text;
  add_linear(projector, "1", v.projector_hidden, v.hidden, 1, v.projector_bias);
  add_linear(projector, "2", text, v.projector_hidden, kSharp, v.projector_bias);
  add_linear(merger, "1", v.projector_hidden, merged, kSharp, v.merge_bias);
  add_linear(merger, "2", text, v.projector_hidden, kSharp, v.merge_bias);
}

}  // namespace

void add_vision(std::vector<WeightSpec>& table, const Config& config) {
  const VisionConfig& v = *config.vision;
  const TableBuilder tower(table, Part::kVision, "vision_tower.vision_model.",
                           "model.vision_tower.");
  add_patch_embedding(tower, v);
  add_norm(tower, "pre_layrnorm", v.hidden);  // so it is spelled
  const TableBuilder encoder = tower.inside("encoder.", "");
  for (std::int64_t layer = 0; layer < v.layers; ++layer)
    add_encoder_layer(encoder.layer(layer), v);
  add_projector(table, v, config.hidden);
}

}  // namespace m3
