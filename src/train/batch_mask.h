// The masks of some sequences as one batch has them.
#pragma once

#include <span>

#include "ops/cache.h"
#include "tensor/tensor.h"
#include "train/differentiator.h"

namespace m3 {

class BatchMask {
 public:
  // Where any of the sequences has a bias; otherwise nothing.
  explicit BatchMask(std::span<const TrainingSequence> sequences);

  RowMask rows() const { return rows_; }

 private:
  RowMask rows_;
  Buffer buffer_;
};

}  // namespace m3
