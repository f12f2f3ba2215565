// What training reads: documents, and which of their tokens are learnt.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/splice.h"
#include "model/vision.h"
#include "ops/gradients.h"
#include "tensor/tensor.h"

namespace m3 {

// A picture or clip of a document, and what the tower made of it.
struct TrainingMedia {
  Tensor pixels;  // [grid.rows(), pixel_row_size] F32
  MediaGrid grid;
  std::shared_ptr<const EncodedMedia> encoded;
};

// One document. labels[t] is the token that row t is to predict, or kNotScored.
struct TrainingSequence {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> labels;
  std::vector<TrainingMedia> media = {};
  SplicePlan splices = {};  // of `media` into `ids`
  // What RoPE turns by, and nothing else reads (spec: training §2.3); empty: 0, 1, ….
  std::vector<std::int32_t> positions = {};
  // [tokens, tokens]: added to the scaled score of a row and a token, -infinity hides it. Layers
  // without lists of blocks attend to all that it does not hide; empty: each row to those up to
  // itself (spec: training §2.2).
  std::vector<float> bias = {};
};

// Rows with a label, of all sequences.
std::int64_t scored_labels(std::span<const TrainingSequence> sequences);
std::int64_t rows_of(std::span<const TrainingSequence> sequences);
// The rows of each.
std::vector<std::int64_t> lengths_of(std::span<const TrainingSequence> sequences);

}  // namespace m3
