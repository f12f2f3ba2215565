#include <cmath>

#include "model/weight_table_builder.h"

namespace m3 {
namespace {

constexpr Init kNormWeight{1, 0.2};
constexpr Init kBias{0, 0.1};
constexpr double kSharp = 1.5;

// A null place: the weight is described, and put nowhere.
template <typename T, typename Member>
auto place(T* of, Member T::*member) {
  return of == nullptr ? nullptr : &(of->*member);
}

void add_norm(const TableBuilder& table, const std::string& name, std::int64_t size,
              LayerNormWeights* to) {
  table.vector(name + ".weight", size, kNormWeight, place(to, &LayerNormWeights::weight));
  table.vector(name + ".bias", size, kBias, place(to, &LayerNormWeights::bias));
}

void add_linear(const TableBuilder& table, const std::string& name, std::int64_t rows,
                std::int64_t cols, double gain, BiasedLinear* to, bool bias = true) {
  table.linear(name, rows, cols,
               {Split::kReplicated, Fusion::kNone, Kind::kVision, gain, /*quantised=*/false},
               place(to, &BiasedLinear::linear));
  if (bias) table.vector(name + ".bias", rows, kBias, place(to, &BiasedLinear::bias));
}

// The stem is a convolution over [frames, height, width] that never overlaps: a linear by another
// shape. Stored in float32.
void add_patch_embedding(const TableBuilder& tower, const VisionConfig& v, VisionWeights* to) {
  const std::int64_t fan = v.channels * v.temporal_patch * v.patch * v.patch;
  const TableBuilder table = tower.inside("embeddings.patch_embedding.", "embeddings.proj.");
  WeightSpec& spec =
      table.weight("weight", {v.hidden, v.channels, v.temporal_patch, v.patch, v.patch},
                   {0, 1 / std::sqrt(static_cast<double>(fan))});
  spec.stored = DType::kF32;
  if (to != nullptr) spec.place = &to->patch_embedding;
}

void add_encoder_layer(const TableBuilder& table, const VisionConfig& v, EncoderLayerWeights* to) {
  using Layer = EncoderLayerWeights;
  const auto attention = [&](const char* name, BiasedLinear Layer::*member) {
    add_linear(table, fmt::format("self_attn.{}", name), v.hidden, v.hidden, kSharp,
               place(to, member));
  };
  add_norm(table, "layer_norm1", v.hidden, place(to, &Layer::norm1));
  attention("q_proj", &Layer::q);
  attention("k_proj", &Layer::k);
  attention("v_proj", &Layer::v);
  attention("out_proj", &Layer::out);
  add_norm(table, "layer_norm2", v.hidden, place(to, &Layer::norm2));
  add_linear(table, "mlp.fc1", v.inner, v.hidden, 1, place(to, &Layer::fc1));
  add_linear(table, "mlp.fc2", v.hidden, v.inner, 1, place(to, &Layer::fc2));
}

// Projector first, then the merger of spatial_merge² neighbours.
void add_projector(std::vector<WeightSpec>& table, const VisionConfig& v, std::int64_t text,
                   VisionWeights* to) {
  const std::string native = "model.multi_modal_projector.";
  const TableBuilder projector(table, Part::kVision, "multi_modal_projector.linear_",
                               native + "linear_");
  const TableBuilder merger(table, Part::kVision, "patch_merge_mlp.linear_",
                            native + "merge_linear_");
  const std::int64_t merged = v.spatial_merge * v.spatial_merge * text;
  using V = VisionWeights;
  add_linear(projector, "1", v.projector_hidden, v.hidden, 1, place(to, &V::projector_1),
             v.projector_bias);
  add_linear(projector, "2", text, v.projector_hidden, kSharp, place(to, &V::projector_2),
             v.projector_bias);
  add_linear(merger, "1", v.projector_hidden, merged, kSharp, place(to, &V::merger_1),
             v.merge_bias);
  add_linear(merger, "2", text, v.projector_hidden, kSharp, place(to, &V::merger_2), v.merge_bias);
}

}  // namespace

void add_vision(std::vector<WeightSpec>& table, const Config& config, VisionWeights* to) {
  const VisionConfig& v = *config.vision;
  const TableBuilder tower(table, Part::kVision, "vision_tower.vision_model.",
                           "model.vision_tower.");
  add_patch_embedding(tower, v, to);
  add_norm(tower, "pre_layrnorm", v.hidden, place(to, &VisionWeights::pre_norm));  // so spelled
  const TableBuilder encoder = tower.inside("encoder.", "");
  for (std::int64_t layer = 0; layer < v.layers; ++layer)
    add_encoder_layer(encoder.layer(layer), v,
                      to == nullptr ? nullptr : &to->layers[static_cast<std::size_t>(layer)]);
  add_projector(table, v, config.hidden, to);
}

}  // namespace m3
