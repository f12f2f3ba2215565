// The masks of some sequences as one batch has them.
#pragma once

#include <span>

#include "ops/cache.h"
#include "tensor/tensor.h"
#include "train/training_sequence.h"

namespace m3 {

class BatchMask {
 public:
  // Where any of the sequences has a bias; otherwise nothing.
  explicit BatchMask(std::span<const TrainingSequence> sequences);

  RowMask rows() const { return rows_; }
  // What one takes, without making it.
  static std::int64_t bytes_for(std::span<const TrainingSequence> sequences);

 private:
  RowMask rows_;
  Buffer buffer_;
};

// Of the biases of all these sequences.
std::int64_t bias_bytes(std::span<const TrainingSequence> sequences);
// What the masks of a step take while it is computed, `rows` together: a copy of its biases, and
// what is made of them.
std::int64_t mask_bytes(std::span<const TrainingSequence> step, std::int64_t rows);

}  // namespace m3
