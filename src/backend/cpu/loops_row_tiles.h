// Numbers that only run time knows, as constants for the innermost loops. For isa_*.cc only.
#pragma once

#include <cstdint>

namespace m3::cpu {
namespace {

template <int n>
struct Constant {
  static constexpr int value = n;
};

// Calls f(Constant<n>) for 1 <= n <= kMost; for a larger n, of kMost.
template <int kMost, class F>
void with_constant(std::int64_t n, F f) {
  if constexpr (kMost > 1) {
    if (n < kMost) return with_constant<kMost - 1>(n, f);
  }
  f(Constant<kMost>());
}

// Splits rows into tiles of at most kRows, as equal as can be: a row alone would wait for its own
// additions. f(number of rows as a constant, first row).
template <int kRows, class F>
void for_row_tiles(std::int64_t rows, F f) {
  const std::int64_t tiles = (rows + kRows - 1) / kRows;
  if (tiles == 0) return;
  const std::int64_t least = rows / tiles, larger = rows % tiles;
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < tiles; ++i) {
    const std::int64_t here = least + (i < larger ? 1 : 0);
    with_constant<kRows>(here, [&](auto constant) { f(constant, row); });
    row += here;
  }
}

}  // namespace
}  // namespace m3::cpu
