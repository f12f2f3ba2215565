// Rows of bfloat16 times a matrix that lies in pairs along the sum (PairsJob). Lanes run over the
// columns, so that nothing is summed across lanes in the end: what short sums want, and sums whose
// right side is laid out anew anyway. For isa_*.cc only; D as in loops_tile.h.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_row_tiles.h"
#include "backend/cpu/loops_rows.h"

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

// Some rows of x and a block of pairs, as they are multiplied.
template <class D, int kRows>
struct PairsOfX {
  static std::int64_t block_pairs(const PairsJob& job) { return job.pairs; }

  PairsOfX(const std::uint16_t* x_, std::int64_t stride_, std::int64_t) : x(x_), stride(stride_) {}
  // Element `part` of a pair, or all of it, in every lane.
  auto everywhere(int i, std::int64_t pair, int) const {
    return D::Simd::broadcast_pair(x + i * stride + 2 * pair);
  }

  const std::uint16_t* x;
  std::int64_t stride;
};

// Where bfloat16 is widened to be multiplied, x is widened once for all columns: in the loop it
// would take as many instructions as the products of one or two vectors of y.
template <class D, int kRows>
requires(D::kParts > 1) struct PairsOfX<D, kRows> {
  static constexpr std::int64_t kBlockPairs = 128;
  static std::int64_t block_pairs(const PairsJob&) { return kBlockPairs; }

  PairsOfX(const std::uint16_t* x, std::int64_t stride, std::int64_t pairs) {
    for (int i = 0; i < kRows; ++i)
      widen_bf16<typename D::Simd>(x + i * stride, 2 * pairs, widened[i]);
  }
  auto everywhere(int i, std::int64_t pair, int part) const {
    return D::Simd::set1(widened[i][2 * pair + part]);
  }

  float widened[kRows][2 * kBlockPairs];
};

// Where a tile begins.
struct PairsPlace {
  std::int64_t row, column, pair;
};

template <class D, int kVectors, int kRows>
void pairs_tile(const PairsJob& job, const PairsOfX<D, kRows>& x, const PairsPlace& at,
                std::int64_t pairs, LinesAhead& ahead) {
  using S = typename D::Simd;
  using F = typename D::F;
  const std::uint16_t* y = job.y + at.pair * job.y_stride + 2 * at.column;
  float* out = job.out + at.row * job.out_stride + at.column;
  const bool adds = job.adds || at.pair > 0;
  F sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sums[i][v] = adds ? S::load(out + i * job.out_stride + v * S::kLanes) : S::zero();
  const char* next = ahead.next;
  const char* end = ahead.end;
  for (std::int64_t pair = 0; pair < pairs; ++pair, y += job.y_stride) {
    if (next < end) {
      // Into the second-level cache: the first one is full of what is multiplied now.
      for (const char* stop = next + ahead.step; next < stop; next += 128) {
        __builtin_prefetch(next, 0, 2);
        __builtin_prefetch(next + 64, 0, 2);
      }
    }
#pragma GCC unroll 2
    for (int p = 0; p < D::kParts; ++p) {
      decltype(D::part(D::load_w(y), p)) ys[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) ys[v] = D::part(D::load_w(y + v * 2 * S::kLanes), p);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const auto xi = x.everywhere(i, pair, p);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[i][v] = D::multiply_add(ys[v], xi, sums[i][v]);
      }
    }
  }
  ahead.next = next;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      S::store(out + i * job.out_stride + v * S::kLanes, sums[i][v]);
}

// Vectors of y of a tile of so many rows: with few rows four, so that a page passes by in one
// piece.
template <class D>
constexpr int pair_vectors(int rows) {
  const int vectors = D::kPairRegisters / (rows + 1);
  return vectors < 4 ? vectors : 4;
}

// All columns of kRows rows.
template <class D, int kRows>
void pairs_rows(const PairsJob& job, std::int64_t row, LinesAhead& ahead) {
  using S = typename D::Simd;
  constexpr int kVectors = pair_vectors<D>(kRows);
  using X = PairsOfX<D, kRows>;
  const std::int64_t block = X::block_pairs(job);
  for (std::int64_t pair = 0; pair < job.pairs; pair += block) {
    const std::int64_t pairs = job.pairs - pair < block ? job.pairs - pair : block;
    const X x(job.x + row * job.x_stride + 2 * pair, job.x_stride, pairs);
    std::int64_t column = 0;
    // As even as may be: five vectors are three and two, not four and one.
    for (std::int64_t left = job.columns / S::kLanes; left > 0;) {
      const std::int64_t vectors = divide_up(left, divide_up(left, kVectors));
      with_constant<kVectors>(vectors, [&](auto v) {
        pairs_tile<D, decltype(v)::value>(job, x, {row, column, pair}, pairs, ahead);
      });
      column += vectors * S::kLanes;
      left -= vectors;
    }
  }
}

template <class D>
void multiply_pairs(const PairsJob& job) {
  const std::int64_t row_tiles = divide_up(job.rows, D::kPairRows);
  const int vectors = pair_vectors<D>(static_cast<int>(divide_up(job.rows, row_tiles)));
  LinesAhead ahead(job, row_tiles * divide_up(job.columns / D::Simd::kLanes, vectors));
  for_row_tiles<D::kPairRows>(job.rows, [&](auto rows, std::int64_t row) {
    pairs_rows<D, decltype(rows)::value>(job, row, ahead);
  });
}

}  // namespace
}  // namespace m3::cpu
