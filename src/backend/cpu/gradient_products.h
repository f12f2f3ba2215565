// Products of derivatives, whose right sides are made on the way: sums of x y over rows of x that
// are rounded to bfloat16 and matrices y that lie elsewhere in other forms.
//
// A task owns some rows and columns of a result. It walks over all that is summed, some hundred at
// a time: y is brought into pairs in the second-level cache, all rows pass by, and their sums wait
// there too. So a weight is decoded once for kProductRows rows, in whatever format it is stored,
// and nothing of its size is written anywhere.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/cpu/kernels.h"
#include "backend/cpu/scratch.h"
#include "tensor/matrix.h"

namespace m3::cpu {

// Rows in bfloat16: row r at data + r * stride, even lengths padded with a zero where odd.
struct RoundedRows {
  const std::uint16_t* data = nullptr;
  std::int64_t stride = 0;

  RoundedRows from(std::int64_t row) const { return {data + row * stride, stride}; }
};

// y[d, c]: one of three.
struct RightSide {
  const Matrix* weight = nullptr;      // output d, column c; without the factor of the whole
  const float* const* rows = nullptr;  // rows[d][c]
  const Tensor* columns = nullptr;     // element d of row c
};

struct Summand {
  RoundedRows x;  // [rows, depth]
  RightSide y;    // [depth, columns]
  std::int64_t depth = 0;
};

// out[r, c] (+)= Σ x[r] y[:, c] over all summands, in their order. Sums are in float32, the depth
// ascending, whatever the number of rows and threads.
struct SumOfProducts {
  std::vector<Summand> summands;
  std::int64_t rows = 0, columns = 0;
  float* out = nullptr;  // [rows, columns]
  bool adds = false;
};

// Computes all of them in one parallel loop. They read nothing that one of them writes.
void multiply_all(const Kernels& kernels, ThreadPool& pool, TaskScratch& tasks,
                  std::span<const SumOfProducts> products);

// Makes rounded rows, whose memory is one allocation's.
class RowRounder {
 public:
  // Elements from a row of `columns` to the next: a distance of 4 KiB would let rows fight for the
  // same lines of the first-level cache.
  static std::int64_t stride_of(std::int64_t columns) { return round_up(columns, 32) + 32; }

  RowRounder(const Kernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

  // out [rows, stride_of(columns)] = factor * x [rows], each [columns].
  void round(std::span<const float* const> x, std::int64_t columns, float factor,
             std::uint16_t* out);
  // out [columns, stride_of(rows)]: the same, turned.
  void turn(std::span<const float* const> x, std::int64_t columns, std::uint16_t* out);

 private:
  const Kernels& kernels_;
  ThreadPool& pool_;
};

}  // namespace m3::cpu
