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

  // The parts of which encode() is made, for training.

  // Consecutive segments that are encoded together.
  struct Slice {
    std::int64_t first_row = 0;
    std::vector<MediaGrid> segments = {};

    std::int64_t rows() const;
  };
  // What encoding a slice writes. Every tensor has the slice's rows unless its comment says
  // otherwise.
  struct Buffers {
    Tensor positions;                          // [rows, 3] I64
    Tensor rotations;                          // [rows, rotary_dim]
    Tensor segments;                           // [segments + 1] I32
    Tensor hidden, normed, q, k, v, attended;  // [rows, hidden]
    Tensor wide;                               // [some rows, the larger of both inner widths]
    Tensor projected;                          // [some rows, text hidden]

    Buffers first(std::int64_t rows, std::int64_t count) const;
  };
  static std::vector<Slice> cut(std::span<const MediaGrid> grids, const VisionConfig& config);
  Buffer allocate(std::int64_t rows, std::int64_t segments, Buffers& buffers) const;
  // What allocate() takes; and at most for a slice of one picture or clip.
  static std::int64_t bytes_for(const Config& config, std::int64_t rows, std::int64_t segments);
  static std::int64_t bytes_for(const Config& config, const MediaGrid& grid);
  // Places segments and rotations; b.hidden = the patches' embeddings, before their norm.
  void begin(const Slice& slice, const Tensor& pixels, const Buffers& b) const;
  // b.hidden += attention of its norm. Leaves q and k rotated.
  void attention(const EncoderLayerWeights& w, const Buffers& b) const;
  // b.hidden += the MLP of its norm, some rows at a time.
  void mlp(const EncoderLayerWeights& w, const Buffers& b) const;
  // Projector for each row of b.hidden, then the merger of every block (spec: vision §6.4).
  void project(const Buffers& b, const Tensor& features) const;

 private:
  bool encode_slice(const Slice& slice, const Tensor& pixels, const Buffers& b,
                    const Tensor& features, const EncodeWatch& watch) const;
  void place_segments(const Slice& slice, const Buffers& b) const;
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
