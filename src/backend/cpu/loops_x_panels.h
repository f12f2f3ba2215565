// Panels: x as tiles want their second factor, and sums turned over on their way out. For isa_*.cc
// only.
//
// A panel of n <= 16 rows holds, for each 32 columns, 16 rows of n words: word r of row p is the
// pair of columns 2 p and 2 p + 1 of row r, in bfloat16. Columns are padded with zeros to 32.
#pragma once

#include <cstdint>

#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_weights.h"

namespace m3::cpu {
namespace {

constexpr std::int64_t kStepColumns = 32;  // columns of one multiplication
static_assert(kXPanelRows == kTileRows);

// in [rows <= 16, 16] words, dense, to out[c * out_stride + r] for c < columns; instruction sets
// with a faster way specialise it.
template <class S>
struct Transpose {
  static void run(const void* in, std::int64_t rows, std::int64_t columns, void* out,
                  std::int64_t out_stride) {
    for (std::int64_t c = 0; c < columns; ++c)
      for (std::int64_t r = 0; r < rows; ++r)
        __builtin_memcpy(static_cast<char*>(out) + (c * out_stride + r) * 4,
                         static_cast<const char*>(in) + (r * 16 + c) * 4, 4);
  }
};

inline std::int64_t x_panel_bytes(std::int64_t k, std::int64_t rows) {
  return round_up(round_up(k, kStepColumns) * rows * 2, 64);
}

// Columns [at, at + 32) of a row of x in bfloat16, zeros beyond k.
template <class D>
void round_step(const float* x, std::int64_t k, std::int64_t at, std::uint16_t* out) {
  using S = typename D::Simd;
  for (std::int64_t i = 0; i < kStepColumns; i += S::kLanes) {
    const std::int64_t left = k - at - i;
    const auto v = left >= S::kLanes ? S::load(x + at + i)
                   : left > 0        ? S::load_part(x + at + i, static_cast<int>(left))
                                     : S::zero();
    D::store_factor(out + i, v);
  }
}

// Rounds one step ahead of the transposition: read back at once, halves of a vector just written
// would keep the loads waiting.
template <class D>
void pack_x_panel(const float* const* x, std::int64_t rows, std::int64_t k, void* panel) {
  alignas(64) std::uint16_t rounded[2][kTileRows][kStepColumns];
  const std::int64_t steps = (k + kStepColumns - 1) / kStepColumns;
  const auto round = [&](std::int64_t step) {
    for (std::int64_t r = 0; r < rows; ++r)
      round_step<D>(x[r], k, step * kStepColumns, rounded[step % 2][r]);
  };
  round(0);
  for (std::int64_t step = 0; step < steps; ++step) {
    if (step + 1 < steps) round(step + 1);
    Transpose<typename D::Simd>::run(rounded[step % 2], rows, kStepColumns / 2,
                                     static_cast<char*>(panel) + step * rows * kTileRowBytes, rows);
  }
}

}  // namespace
}  // namespace m3::cpu
