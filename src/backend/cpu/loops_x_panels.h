// Panels: up to 16 rows of x as tiles want their first factor. For isa_*.cc only; D as in
// loops_tile.h.
//
// A panel of n rows holds, for each 32 columns, n rows of 64 bytes: numbers in bfloat16. Columns
// are padded with zeros to whole spans. For 4-bit weights they lie on the grid of
// loops_panel_e2m1.h. Panels of so few rows that vectors multiply them end with what these want of
// each row: the GridBlocks of 4-bit weights, else the row packed.
#pragma once

#include <cstdint>

#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_panel_e2m1.h"

namespace m3::cpu {
namespace {

constexpr std::int64_t kXStepColumns = 32;
static_assert(kXPanelRows == kTileRows && kXStepColumns * 2 == kTileRowBytes);
static_assert(kXStepColumns == kGridColumns);

inline std::int64_t x_panel_bytes(std::int64_t k, std::int64_t rows) {
  return spans_of(k) * kSpanColumns * 2 * rows;
}

// `columns` numbers of x in float32 from column `at` on, copied and padded where the row ends.
class StepOfX {
 public:
  StepOfX(const float* x, std::int64_t k, std::int64_t at) : x_(x + at) {
    if (at + kXStepColumns <= k) return;
    x_ = padded_;
    for (std::int64_t i = 0; i < kXStepColumns; ++i) padded_[i] = at + i < k ? x[at + i] : 0;
  }
  const float* values() const { return x_; }

 private:
  const float* x_;
  float padded_[kXStepColumns];
};

// f(row, step, where its numbers go) for all of a panel.
template <class F>
void for_panel_steps(std::int64_t rows, std::int64_t k, void* panel, F f) {
  auto* out = static_cast<char*>(panel);
  for (std::int64_t step = 0; step < spans_of(k) * kSpanColumns / kXStepColumns; ++step)
    for (std::int64_t r = 0; r < rows; ++r, out += kTileRowBytes)
      f(r, step, reinterpret_cast<std::uint16_t*>(out));
}

template <class D>
void round_step(const float* x, std::uint16_t* out) {
  using S = typename D::Simd;
  for (std::int64_t i = 0; i < kXStepColumns; i += S::kLanes)
    D::store_factor(out + i, S::load(x + i));
}

// How vectors multiply bfloat16 with the bits of tiles; kExists where they can. A block's even and
// odd columns have chains of their own.
template <class D>
struct FewRows {
  static constexpr bool kExists = false;
};
constexpr int kFewRowsMax = kGridRows;

template <class D>
std::int64_t x_panel_bytes_with_rows(std::int64_t k, std::int64_t rows) {
  std::int64_t bytes = x_panel_bytes(k, rows);
  if constexpr (FewRows<D>::kExists)
    if (rows <= kFewRowsMax) bytes += rows * packed_bytes<FewRows<D>>(k);
  return bytes;
}

template <class D>
void pack_x_panel(const float* const* x, std::int64_t rows, std::int64_t k, void* panel) {
  for_panel_steps(rows, k, panel, [&](std::int64_t r, std::int64_t step, std::uint16_t* out) {
    round_step<D>(StepOfX(x[r], k, step * kXStepColumns).values(), out);
  });
  if constexpr (FewRows<D>::kExists)
    for (std::int64_t r = 0; rows <= kFewRowsMax && r < rows; ++r)
      pack<FewRows<D>>(
          x[r], k,
          static_cast<char*>(panel) + x_panel_bytes(k, rows) + r * packed_bytes<FewRows<D>>(k));
}

template <class D>
constexpr bool has_grid_blocks(std::int64_t rows) {
  return D::kHasQuads && rows <= kFewRowsMax;
}
template <class D>
std::int64_t x_panel_bytes_e2m1(std::int64_t k, std::int64_t rows) {
  const std::int64_t blocks = has_grid_blocks<D>(rows) ? rows * grid_blocks_bytes(k) : 0;
  return round_up(x_panel_bytes(k, rows) + blocks, 64);
}

template <class D>
void pack_x_panel_e2m1(const float* const* x, std::int64_t rows, std::int64_t k, void* panel) {
  auto* blocks = static_cast<char*>(panel) + x_panel_bytes(k, rows);
  for_panel_steps(rows, k, panel, [&](std::int64_t r, std::int64_t step, std::uint16_t* out) {
    float on_grid[kGridColumns];
    const StepOfX here(x[r], k, step * kXStepColumns);
    const float unit = round_to_grid<D>(here.values(), on_grid);
    round_step<D>(on_grid, out);
    if constexpr (D::kHasQuads) {
      if (!has_grid_blocks<D>(rows)) return;
      auto* row = reinterpret_cast<GridBlock*>(blocks + r * grid_blocks_bytes(k));
      split_into_bytes<typename D::Simd>(on_grid, unit, row[step]);
    }
  });
}

}  // namespace
}  // namespace m3::cpu
