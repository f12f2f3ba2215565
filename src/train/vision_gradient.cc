#include "train/vision_gradient.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "tensor/layout.h"

namespace m3 {

struct VisionGradient::Scratch {
  explicit Scratch(const VisionConfig& config) : kept(static_cast<std::size_t>(config.layers)) {}

  std::vector<KeptLayer> kept;
  Tensor stem, d_hidden, d_stem;     // [rows, hidden]
  Tensor normed, d_normed;           // [rows, hidden]
  Tensor d_attended, d_q, d_k, d_v;  // [rows, hidden]
  Tensor wide, active, d_wide;       // [rows, inner]

  std::vector<Placement> placements(const VisionConfig& config, std::int64_t rows) {
    std::vector<Placement> placements;
    const auto add = [&](std::initializer_list<Tensor*> tensors, std::int64_t cols) {
      for (Tensor* tensor : tensors) placements.push_back({tensor, DType::kF32, {rows, cols}});
    };
    for (KeptLayer& k : kept)
      add({&k.input, &k.q, &k.k, &k.v, &k.attended, &k.middle}, config.hidden);
    add({&stem, &d_hidden, &d_stem, &normed, &d_normed}, config.hidden);
    add({&d_attended, &d_q, &d_k, &d_v}, config.hidden);
    add({&wide, &active, &d_wide}, config.inner);
    return placements;
  }
};

struct VisionGradient::Projection {
  Tensor wide, active;                // [rows, projector_hidden]
  Tensor projected, d_projected;      // [rows, text hidden]
  Tensor merged_wide, merged_active;  // [rows / spatial_merge^2, projector_hidden]

  std::vector<Placement> placements(const Config& config, std::int64_t rows) {
    const VisionConfig& c = *config.vision;
    const std::int64_t merged_rows = rows / (c.spatial_merge * c.spatial_merge);
    const DType f32 = DType::kF32;
    return {{&wide, f32, {rows, c.projector_hidden}},
            {&active, f32, {rows, c.projector_hidden}},
            {&projected, f32, {rows, config.hidden}},
            {&d_projected, f32, {rows, config.hidden}},
            {&merged_wide, f32, {merged_rows, c.projector_hidden}},
            {&merged_active, f32, {merged_rows, c.projector_hidden}}};
  }
};

VisionGradient::VisionGradient(const Model& model, const WeightGradients& weights)
    : model_config_(model.config()),
      config_(*model_config_.vision),
      vision_(*model.weights().vision),
      weights_(weights),
      backend_(model.backend()),
      ops_(*model.backend().gradients()),
      tower_(model.config(), vision_, backend_) {}

void VisionGradient::add(std::span<const TrainingSequence> sequences,
                         std::span<const Splice> splices, const Tensor& d_rows) {
  std::set<const EncodedMedia*> done;
  for (const TrainingSequence& sequence : sequences)
    for (const TrainingMedia& media : sequence.media) {
      if (!done.insert(media.encoded.get()).second) continue;
      const Tensor& all = media.encoded->features;
      const Buffer memory(all.bytes());  // zeros
      const Tensor d_all = memory.tensor(DType::kF32, {all.dim(0), all.dim(1)});
      for (const auto& [first, features] : splices) {
        const std::int64_t offset = features.as<float>() - all.as<float>();
        if (offset < 0 || offset >= all.elements()) continue;
        const std::int64_t row = offset / all.dim(1), rows = features.dim(0);
        backend_.add(d_rows.rows(first, first + rows), d_all.rows(row, row + rows));
      }
      add(media.pixels, media.grid, d_all);
    }
}

void VisionGradient::add(const Tensor& pixels, const MediaGrid& grid, const Tensor& d_features) {
  const std::int64_t merged = config_.spatial_merge * config_.spatial_merge;
  for (const VisionTower::Slice& slice : VisionTower::cut(std::span(&grid, 1), config_)) {
    const std::int64_t first = slice.first_row / merged;
    add_slice(slice, pixels, d_features.rows(first, first + slice.rows() / merged));
  }
}

std::int64_t VisionGradient::bytes_for(const Config& config, const MediaGrid& grid) {
  const VisionConfig& c = *config.vision;
  Scratch scratch(c);
  Projection projection;
  std::int64_t most = 0;
  for (const VisionTower::Slice& slice : VisionTower::cut(std::span(&grid, 1), c)) {
    const std::int64_t rows = slice.rows();
    most = std::max(most, VisionTower::bytes_for(config, rows, std::ssize(slice.segments)) +
                              bytes_of(scratch.placements(c, rows)) +
                              bytes_of(projection.placements(config, rows)));
  }
  return most;
}

void VisionGradient::add_slice(const VisionTower::Slice& slice, const Tensor& pixels,
                               const Tensor& d_features) {
  const std::int64_t rows = slice.rows();
  VisionTower::Buffers b;
  const Buffer shared = tower_.allocate(rows, std::ssize(slice.segments), b);
  Scratch s(config_);
  const Buffer own = lay_out(s.placements(config_, rows));
  const std::vector<KeptLayer>& kept = s.kept;
  const Tensor &stem = s.stem, &d_hidden = s.d_hidden, &d_stem = s.d_stem;

  tower_.begin(slice, pixels, b);
  backend_.copy(b.hidden, stem);
  backend_.layer_norm(stem, norm_of(vision_.pre_norm), b.hidden);
  for (std::size_t layer = 0; layer < kept.size(); ++layer) {
    const KeptLayer& k = kept[layer];
    VisionTower::Buffers of_layer = b;
    of_layer.q = k.q, of_layer.k = k.k, of_layer.v = k.v, of_layer.attended = k.attended;
    backend_.copy(b.hidden, k.input);
    tower_.attention(vision_.layers[layer], of_layer);
    backend_.copy(b.hidden, k.middle);
    tower_.mlp(vision_.layers[layer], of_layer);
  }

  project(b, d_features, d_hidden);
  for (std::size_t layer = kept.size(); layer-- > 0;) {
    mlp(vision_.layers[layer], kept[layer], s, d_hidden);
    attention(vision_.layers[layer], kept[layer], b, s, d_hidden);
  }
  ops_.zero(d_stem);
  norm(stem, vision_.pre_norm, d_hidden, d_stem);
  const Linear& patches = vision_.patch_embedding;
  const Tensor d_patches = weights_.of(patches);
  if (d_patches) {
    const Tensor flat = d_patches.reshape({patches.weight.rows, patches.weight.cols});
    const LinearGradient layer[] = {{&patches, d_stem, flat, {}, {}}};
    ops_.linear(pixels.rows(slice.first_row, slice.first_row + rows), layer, {});
  }
  backend_.synchronize();
}

// d_hidden: by what leaves the last layer.
void VisionGradient::project(const VisionTower::Buffers& b, const Tensor& d_features,
                             const Tensor& d_hidden) {
  Projection all;
  const Buffer memory = lay_out(all.placements(model_config_, b.hidden.dim(0)));
  const auto& [wide, active, projected, d_projected, merged_wide, merged_active] = all;
  const VisionWeights& w = vision_;
  const auto merged = [&](const Tensor& x) {
    return x.reshape({d_features.dim(0), x.elements() / d_features.dim(0)});
  };
  forward(b.hidden, w.projector_1, wide);
  backend_.gelu(wide, w.projector_1.bias, active);
  forward(active, w.projector_2, projected);
  if (w.projector_2.bias) backend_.add(w.projector_2.bias, projected);
  forward(merged(projected), w.merger_1, merged_wide);
  backend_.gelu(merged_wide, w.merger_1.bias, merged_active);

  // merged_active and active have been read when the derivatives by them take their place.
  const Tensor d_merged = merged_active, d_active = active;
  linear(merged_active, w.merger_2, d_features, d_merged);
  ops_.gelu(merged_wide, w.merger_1.bias, d_merged, d_merged);
  linear(merged(projected), w.merger_1, d_merged, merged(d_projected));
  linear(active, w.projector_2, d_projected, d_active);
  ops_.gelu(wide, w.projector_1.bias, d_active, d_active);
  linear(b.hidden, w.projector_1, d_active, d_hidden);
}

void VisionGradient::mlp(const EncoderLayerWeights& w, const KeptLayer& kept, const Scratch& s,
                         const Tensor& d_hidden) {
  backend_.layer_norm(kept.middle, norm_of(w.norm2), s.normed);
  forward(s.normed, w.fc1, s.wide);
  backend_.gelu(s.wide, w.fc1.bias, s.active);
  linear(s.active, w.fc2, d_hidden, s.d_wide);
  ops_.gelu(s.wide, w.fc1.bias, s.d_wide, s.d_wide);
  linear(s.normed, w.fc1, s.d_wide, s.d_normed);
  norm(kept.middle, w.norm2, s.d_normed, d_hidden);
}

void VisionGradient::attention(const EncoderLayerWeights& w, const KeptLayer& kept,
                               const VisionTower::Buffers& b, const Scratch& s,
                               const Tensor& d_hidden) {
  const std::int64_t dim = config_.hidden / config_.heads;
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
  backend_.layer_norm(kept.input, norm_of(w.norm1), s.normed);
  linear(kept.attended, w.out, d_hidden, s.d_attended);
  ops_.segment_attention(kept.q, kept.k, kept.v, b.segments, dim, scale, kept.attended,
                         s.d_attended, s.d_q, s.d_k, s.d_v);
  ops_.rotate(b.rotations, dim, s.d_q);
  ops_.rotate(b.rotations, dim, s.d_k);
  bias(w.q, s.d_q);
  bias(w.k, s.d_k);
  bias(w.v, s.d_v);
  const LinearGradient qkv[] = {weights_.of(w.q.linear, s.d_q), weights_.of(w.k.linear, s.d_k),
                                weights_.of(w.v.linear, s.d_v)};
  ops_.linear(s.normed, qkv, s.d_normed);
  norm(kept.input, w.norm1, s.d_normed, d_hidden);
}

void VisionGradient::linear(const Tensor& x, const BiasedLinear& w, const Tensor& d_out,
                            const Tensor& d_x) {
  bias(w, d_out);
  const LinearGradient layer[] = {weights_.of(w.linear, d_out)};
  ops_.linear(x, layer, d_x);
}

void VisionGradient::bias(const BiasedLinear& w, const Tensor& d_out) {
  if (const Tensor d_bias = weights_.of(w.bias)) ops_.add_row(d_out, d_bias);
}

void VisionGradient::forward(const Tensor& x, const BiasedLinear& w, const Tensor& out) {
  const LinearOutput output[] = {{&w.linear, out}};
  backend_.linear(x, output);
}

LayerNorm VisionGradient::norm_of(const LayerNormWeights& w) const {
  return {w.weight, w.bias, static_cast<float>(config_.norm_eps)};
}

void VisionGradient::norm(const Tensor& x, const LayerNormWeights& w, const Tensor& d_out,
                          const Tensor& d_x) {
  ops_.layer_norm(x, norm_of(w), d_out, d_x, weights_.of(w.weight), weights_.of(w.bias));
}

}  // namespace m3
