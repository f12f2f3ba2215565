// The vision tower, its projector and its merger: pixel rows in, embeddings out (spec: vision §6).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/progress.h"
#include "model/config.h"
#include "model/vision_weights.h"
#include "ops/backend.h"

namespace m3 {

// A picture (t = 1) or a clip, in patches.
struct MediaGrid {
  std::int64_t t = 1;
  std::int64_t h = 0;
  std::int64_t w = 0;

  std::int64_t rows() const { return t * h * w; }
};

// Embeddings that a grid becomes: spatial_merge^2 patches each.
std::int64_t media_tokens(const MediaGrid& grid, const VisionConfig& config);

// Numbers of one pixel row: channels * temporal_patch * patch * patch.
std::int64_t pixel_row_size(const VisionConfig& config);

// How the caller of a long encoding sees how far it is, and ends it.
struct EncodeWatch {
  Progress progress = {};                // in embeddings; may be empty
  std::function<bool()> cancelled = {};  // asked after every layer; may be empty
};

class VisionTower {
 public:
  // `weights` and `backend` outlive the tower.
  VisionTower(const Config& config, const VisionWeights& weights, Backend& backend);

  // Encodes pictures and clips that know nothing of each other. pixels [rows, pixel_row_size] F32,
  // the rows of each grid in the order of spec: vision §3.6; features [rows / spatial_merge^2, text
  // hidden] F32. Heights and widths are multiples of spatial_merge. Memory beside these is that of
  // one segment, or of a few small ones. False if it was cancelled: features are then undefined.
  bool encode(const Tensor& pixels, std::span<const MediaGrid> grids, const Tensor& features,
              const EncodeWatch& watch = {}) const;

 private:
  struct Slice;
  struct Buffers;

  std::vector<Slice> cut(std::span<const MediaGrid> grids) const;
  Buffer allocate(std::int64_t rows, std::int64_t segments, Buffers& buffers) const;
  bool encode_slice(const Slice& slice, const Tensor& pixels, const Buffers& b,
                    const Tensor& features, const EncodeWatch& watch) const;
  void place_segments(const Slice& slice, const Buffers& b) const;
  void attention(const EncoderLayerWeights& w, const Buffers& b) const;
  void mlp(const EncoderLayerWeights& w, const Buffers& b) const;
  void project(const Buffers& b, const Tensor& features) const;
  void norm(const Tensor& x, const LayerNormWeights& w, const Tensor& out) const;
  void linear(const Tensor& x, const Linear& w, const Tensor& out) const;
  void add_bias(const BiasedLinear& w, const Tensor& out) const;

  const Config& config_;
  const VisionConfig& vision_;
  const VisionWeights& weights_;
  Backend& backend_;
  Buffer inv_freq_;  // [frequencies] F32, the same for the three axes
};

}  // namespace m3
