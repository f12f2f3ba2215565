// Rows of bfloat16 times a matrix that lies in pairs along the sum (PairsJob). Lanes run over the
// columns, so that nothing is summed across lanes in the end: what short sums want, and sums whose
// right side is laid out anew anyway. For isa_*.cc only; D as in loops_tile.h.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_row_tiles.h"

namespace m3::cpu {
namespace {

// What PairsJob wants asked for, spread over its tiles: `step` bytes along each pair.
struct LinesAhead {
  const char* next;
  const char* end;
  std::int64_t step = 128;

  LinesAhead(const PairsJob& job, std::int64_t tiles)
      : next(static_cast<const char*>(job.ahead)), end(next + job.ahead_bytes) {
    while (step * tiles * job.pairs < job.ahead_bytes) step *= 2;
  }
};

template <class D, int kRows, int kVectors>
void pairs_tile(const PairsJob& job, std::int64_t row, std::int64_t column, LinesAhead& ahead) {
  using S = typename D::Simd;
  using F = typename D::F;
  const std::uint16_t* x = job.x + row * job.x_stride;
  const std::uint16_t* y = job.y + 2 * column;
  float* out = job.out + row * job.out_stride + column;
  F sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sums[i][v] = job.adds ? S::load(out + i * job.out_stride + v * S::kLanes) : S::zero();
  const char* next = ahead.next;
  const char* end = ahead.end;
  for (std::int64_t pair = 0; pair < job.pairs; ++pair, x += 2, y += job.y_stride) {
    if (next < end) {
      // Into the second-level cache: the first one is full of what is multiplied now.
      for (const char* stop = next + ahead.step; next < stop; next += 128) {
        __builtin_prefetch(next, 0, 2);
        __builtin_prefetch(next + 64, 0, 2);
      }
    }
    typename D::W ys[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) ys[v] = D::load_w(y + v * 2 * S::kLanes);
#pragma GCC unroll 2
    for (int p = 0; p < D::kParts; ++p)
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const auto xi = D::part(S::broadcast_pair(x + i * job.x_stride), p);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v)
          sums[i][v] = D::multiply_add(D::part(ys[v], p), xi, sums[i][v]);
      }
  }
  ahead.next = next;
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      S::store(out + i * job.out_stride + v * S::kLanes, sums[i][v]);
}

template <class D>
void multiply_pairs(const PairsJob& job) {
  using S = typename D::Simd;
  const std::int64_t column_groups = divide_up(job.columns / S::kLanes, S::kPairVectors);
  LinesAhead ahead(job, column_groups * divide_up(job.rows, D::kPairRows));
  std::int64_t column = 0;
  // As even as may be: five vectors are three and two, not four and one.
  for (std::int64_t left = job.columns / S::kLanes; left > 0;) {
    const std::int64_t vectors = divide_up(left, divide_up(left, S::kPairVectors));
    for (std::int64_t row = 0; row < job.rows; row += D::kPairRows)
      with_constant<S::kPairVectors>(vectors, [&](auto v) {
        with_constant<D::kPairRows>(job.rows - row, [&](auto r) {
          pairs_tile<D, decltype(r)::value, decltype(v)::value>(job, row, column, ahead);
        });
      });
    column += vectors * S::kLanes;
    left -= vectors;
  }
}

}  // namespace
}  // namespace m3::cpu
