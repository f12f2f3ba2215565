#include "model/vision.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "tensor/layout.h"

namespace m3 {
namespace {

// Segments are encoded together up to so many rows, so that small pictures fill the machine.
constexpr std::int64_t kSliceRows = 2304;
constexpr std::int64_t kAxes = 3;

std::int64_t head_dim(const VisionConfig& c) {
  return c.hidden / c.heads;
}

// Each axis rotates a third of the head, down to whole pairs (spec: vision §6.3.1).
std::int64_t frequencies(const VisionConfig& c) {
  return head_dim(c) / 3 / 2;
}

std::int64_t merged(const VisionConfig& c) {
  return c.spatial_merge * c.spatial_merge;
}

// Rows of what is wide and of the row alone: both MLPs and the projector. Whole blocks.
std::int64_t wide_rows(const VisionConfig& c) {
  constexpr std::int64_t kRows = 576;
  return std::max<std::int64_t>(1, kRows / merged(c)) * merged(c);
}

// Writes (t, h, w) of every row of a segment in the order of its rows: blocks of merge x merge
// patches (spec: vision §3.6).
void write_positions(const MediaGrid& grid, std::int64_t merge, std::int64_t* out) {
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    const std::int64_t in_frame = row % (grid.h * grid.w), block = in_frame / (merge * merge);
    const std::int64_t inside = in_frame % (merge * merge), across = grid.w / merge;
    *out++ = row / (grid.h * grid.w);
    *out++ = block / across * merge + inside / merge;
    *out++ = block % across * merge + inside % merge;
  }
}

std::vector<Placement> placements(const Config& config, std::int64_t rows, std::int64_t segments,
                                  VisionTower::Buffers& b) {
  const VisionConfig& c = *config.vision;
  const DType f32 = DType::kF32;
  return {{&b.positions, DType::kI64, {rows, kAxes}},
          {&b.rotations, f32, {rows, 2 * kAxes * frequencies(c)}},
          {&b.segments, DType::kI32, {segments + 1}},
          {&b.hidden, f32, {rows, c.hidden}},
          {&b.normed, f32, {rows, c.hidden}},
          {&b.q, f32, {rows, c.hidden}},
          {&b.k, f32, {rows, c.hidden}},
          {&b.v, f32, {rows, c.hidden}},
          {&b.attended, f32, {rows, c.hidden}},
          {&b.wide, f32, {wide_rows(c), std::max(c.inner, c.projector_hidden)}},
          {&b.projected, f32, {wide_rows(c), config.hidden}}};
}

}  // namespace

std::int64_t media_tokens(const MediaGrid& grid, const VisionConfig& config) {
  return grid.rows() / merged(config);
}

std::int64_t pixel_row_size(const VisionConfig& c) {
  return c.channels * c.temporal_patch * c.patch * c.patch;
}

std::int64_t VisionTower::Slice::rows() const {
  std::int64_t sum = 0;
  for (const MediaGrid& segment : segments) sum += segment.rows();
  return sum;
}

VisionTower::Buffers VisionTower::Buffers::first(std::int64_t rows, std::int64_t count) const {
  Buffers part = *this;
  for (Tensor* t : {&part.positions, &part.rotations, &part.hidden, &part.normed, &part.q, &part.k,
                    &part.v, &part.attended})
    *t = t->rows(0, rows);
  part.segments = segments.rows(0, count + 1);
  return part;
}

VisionTower::VisionTower(const Config& config, const VisionWeights& weights, Backend& backend)
    : config_(config),
      vision_(*config.vision),
      weights_(weights),
      backend_(backend),
      inv_freq_(frequencies(vision_) * dtype_size(DType::kF32)) {
  auto* f = reinterpret_cast<float*>(inv_freq_.data());
  const auto width = static_cast<double>(2 * frequencies(vision_));
  for (std::int64_t i = 0; i < frequencies(vision_); ++i)
    f[i] = static_cast<float>(1 / std::pow(vision_.rope_theta, static_cast<double>(2 * i) / width));
}

// Segments of at most segment_frames temporal groups (spec: vision §6.2), as many of them to a
// slice as fit.
std::vector<VisionTower::Slice> VisionTower::cut(std::span<const MediaGrid> grids,
                                                 const VisionConfig& config) {
  std::vector<Slice> slices;
  std::int64_t row = 0;
  for (const MediaGrid& grid : grids) {
    M3_CHECK(grid.t > 0 && grid.h > 0 && grid.w > 0 && grid.h % config.spatial_merge == 0 &&
                 grid.w % config.spatial_merge == 0,
             "grid {} x {} x {}", grid.t, grid.h, grid.w);
    for (std::int64_t t = 0; t < grid.t; t += config.segment_frames) {
      const MediaGrid segment{std::min(config.segment_frames, grid.t - t), grid.h, grid.w};
      if (slices.empty() || slices.back().rows() + segment.rows() > kSliceRows)
        slices.push_back({.first_row = row});
      slices.back().segments.push_back(segment);
      row += segment.rows();
    }
  }
  return slices;
}

bool VisionTower::encode(const Tensor& pixels, std::span<const MediaGrid> grids,
                         const Tensor& features, const EncodeWatch& watch) const {
  const std::vector<Slice> slices = cut(grids, vision_);
  std::int64_t rows = 0, most_rows = 0, most_segments = 0;
  for (const Slice& slice : slices) {
    rows += slice.rows();
    most_rows = std::max(most_rows, slice.rows());
    most_segments = std::max<std::int64_t>(most_segments, std::ssize(slice.segments));
  }
  M3_CHECK(pixels.rank == 2 && pixels.dim(0) == rows && pixels.dim(1) == pixel_row_size(vision_),
           "pixels {} for grids of {} rows", pixels.describe(), rows);
  M3_CHECK(features.rank == 2 && features.dim(0) * merged(vision_) == rows,
           "features {} for {} rows", features.describe(), rows);
  Buffers buffers;
  const Buffer memory = allocate(most_rows, most_segments, buffers);
  for (const Slice& slice : slices) {
    const Buffers part = buffers.first(slice.rows(), std::ssize(slice.segments));
    if (!encode_slice(slice, pixels, part, features, watch)) return false;
  }
  backend_.synchronize();
  return true;
}

Buffer VisionTower::allocate(std::int64_t rows, std::int64_t segments, Buffers& b) const {
  return lay_out(placements(config_, rows, segments, b));
}

std::int64_t VisionTower::bytes_for(const Config& config, std::int64_t rows,
                                    std::int64_t segments) {
  Buffers nowhere;
  return bytes_of(placements(config, rows, segments, nowhere));
}

std::int64_t VisionTower::bytes_for(const Config& config, const MediaGrid& grid) {
  std::int64_t most = 0;
  for (const Slice& slice : cut(std::span(&grid, 1), *config.vision))
    most = std::max(most, bytes_for(config, slice.rows(), std::ssize(slice.segments)));
  return most;
}

void VisionTower::begin(const Slice& slice, const Tensor& pixels, const Buffers& b) const {
  place_segments(slice, b);
  const Rope rope{.inv_freq = inv_freq_.tensor(DType::kF32, {frequencies(vision_)})};
  backend_.rope_table(b.positions, rope, b.rotations);
  const std::int64_t first = slice.first_row;
  linear(pixels.rows(first, first + slice.rows()), weights_.patch_embedding, b.hidden);
}

bool VisionTower::encode_slice(const Slice& slice, const Tensor& pixels, const Buffers& b,
                               const Tensor& features, const EncodeWatch& watch) const {
  const std::int64_t first = slice.first_row, rows = slice.rows();
  begin(slice, pixels, b);
  norm(b.hidden, weights_.pre_norm, b.hidden);
  const std::int64_t before = first / merged(vision_), tokens = rows / merged(vision_);
  const std::int64_t parts = std::ssize(weights_.layers) + 1;  // the projector is one more
  const auto goes_on = [&](std::int64_t done) {
    if (watch.progress) watch.progress(before + tokens * done / parts, features.dim(0));
    return !watch.cancelled || !watch.cancelled();
  };
  for (std::int64_t layer = 0; layer + 1 < parts; ++layer) {
    const EncoderLayerWeights& w = weights_.layers[static_cast<std::size_t>(layer)];
    attention(w, b);
    mlp(w, b);
    if (!goes_on(layer + 1)) return false;
  }
  project(b, features.rows(before, before + tokens));
  return goes_on(parts);
}

void VisionTower::place_segments(const Slice& slice, const Buffers& b) const {
  auto* offset = b.segments.as<std::int32_t>();
  *offset = 0;
  for (const MediaGrid& segment : slice.segments) {
    write_positions(segment, vision_.spatial_merge, b.positions.row<std::int64_t>(*offset));
    offset[1] = *offset + static_cast<std::int32_t>(segment.rows());
    ++offset;
  }
}

void VisionTower::attention(const EncoderLayerWeights& w, const Buffers& b) const {
  norm(b.hidden, w.norm1, b.normed);
  const LinearOutput qkv[] = {{&w.q.linear, b.q}, {&w.k.linear, b.k}, {&w.v.linear, b.v}};
  backend_.linear(b.normed, qkv);
  add_bias(w.q, b.q);
  add_bias(w.k, b.k);
  add_bias(w.v, b.v);
  const std::int64_t dim = head_dim(vision_);
  backend_.rotate(b.rotations, dim, b.q);
  backend_.rotate(b.rotations, dim, b.k);
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
  backend_.segment_attention(b.q, b.k, b.v, b.segments, dim, scale, b.attended);
  linear(b.attended, w.out.linear, b.normed);
  backend_.add(b.normed, b.hidden);
  add_bias(w.out, b.hidden);
}

void VisionTower::mlp(const EncoderLayerWeights& w, const Buffers& b) const {
  norm(b.hidden, w.norm2, b.normed);
  const std::int64_t rows = b.hidden.dim(0);
  for (std::int64_t first = 0; first < rows; first += wide_rows(vision_)) {
    const std::int64_t last = std::min(rows, first + wide_rows(vision_));
    const Tensor wide = shaped(b.wide, last - first, vision_.inner);
    linear(b.normed.rows(first, last), w.fc1.linear, wide);
    backend_.gelu(wide, w.fc1.bias, wide);
    linear(wide, w.fc2.linear, b.normed.rows(first, last));
  }
  backend_.add(b.normed, b.hidden);
  add_bias(w.fc2, b.hidden);
}

void VisionTower::project(const Buffers& b, const Tensor& features) const {
  const std::int64_t rows = b.hidden.dim(0), block = merged(vision_);
  for (std::int64_t first = 0; first < rows; first += wide_rows(vision_)) {
    const std::int64_t last = std::min(rows, first + wide_rows(vision_));
    const Tensor inner = shaped(b.wide, last - first, vision_.projector_hidden);
    const Tensor projected = b.projected.rows(0, last - first);
    linear(b.hidden.rows(first, last), weights_.projector_1.linear, inner);
    backend_.gelu(inner, weights_.projector_1.bias, inner);
    linear(inner, weights_.projector_2.linear, projected);
    add_bias(weights_.projector_2, projected);

    const std::int64_t tokens = (last - first) / block;
    const Tensor merged_inner = shaped(b.wide, tokens, vision_.projector_hidden);
    const Tensor out = features.rows(first / block, last / block);
    linear(projected.reshape({tokens, block * config_.hidden}), weights_.merger_1.linear,
           merged_inner);
    backend_.gelu(merged_inner, weights_.merger_1.bias, merged_inner);
    linear(merged_inner, weights_.merger_2.linear, out);
    add_bias(weights_.merger_2, out);
  }
}

void VisionTower::norm(const Tensor& x, const LayerNormWeights& w, const Tensor& out) const {
  backend_.layer_norm(x, {w.weight, w.bias, static_cast<float>(vision_.norm_eps)}, out);
}

void VisionTower::linear(const Tensor& x, const Linear& w, const Tensor& out) const {
  const LinearOutput output[] = {{&w, out}};
  backend_.linear(x, output);
}

void VisionTower::add_bias(const BiasedLinear& w, const Tensor& out) const {
  if (w.bias) backend_.add(w.bias, out);
}

}  // namespace m3
