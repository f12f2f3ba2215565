// The processes that compute one model together.
#pragma once

#include "tensor/tensor.h"

namespace m3 {

// Collectives at the points of spec: text-model §7.1. The model calls them unconditionally; a group
// of one returns at once. Sums are taken in float32 in ascending rank order, so that one layout of
// ranks always gives the same bits.
class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // x [any], F32: replaced on every rank by the sum over ranks.
  virtual void all_reduce_sum(const Tensor& x) = 0;
  // part [rows, cols] of every rank, side by side in rank order: whole [rows, size * cols]. With
  // one rank, `part` and `whole` may be the same tensor.
  virtual void all_gather_columns(const Tensor& part, const Tensor& whole) = 0;
};

// The ordinary case: one process.
class LocalGroup final : public Group {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(const Tensor& x) override;
  void all_gather_columns(const Tensor& part, const Tensor& whole) override;
};

}  // namespace m3
