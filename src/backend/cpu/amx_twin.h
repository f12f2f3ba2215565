// The tiles of AMX in ordinary memory and vectors, with the bits of TDPBF16PS. For isa_*.cc and
// tests only: it serves to test on machines that have no tiles.
//
// What the instruction computes (Intel 64 and IA-32 Architectures Software Developer's Manual,
// volume 2, "TDPBF16PS", section Operation), for each row m of C and A and each column n:
//
//   even = odd = +0
//   for k = 0, 1, ...: even = fma(A[m].bf16[2k], B[k].bf16[2n], even)
//                      odd = fma(A[m].bf16[2k+1], B[k].bf16[2n+1], odd)
//   C[m][n] = C[m][n] + (even + odd)
//
// Every step rounds once, to nearest, ties to even, whatever MXCSR says. Subnormal operands,
// bfloat16 or float32, count as zeros of their sign (DAZ), and a result that is subnormal after
// rounding becomes a zero of its sign (FTZ). No exception is raised or recorded. So sums start anew
// in every instruction: 32 columns are added among themselves before they meet the old sum.
//
// The manual does not say which NaN results from several: only that it is one is promised here.
#pragma once

#include <cstdint>

#include "backend/cpu/amx_tiles.h"

namespace m3::cpu {
namespace {

struct alignas(64) TwinTile {
  std::uint8_t bytes[kTileRows][kTileRowBytes];
};

// c [m rows, n] += a [m, pairs] x b [pairs, n]; rows beyond m and columns beyond n become zero.
// Not inlined: all floating-point work has to lie between the two writes of MXCSR, and what goes
// through memory does. S::fma rounds once.
template <class S>
[[gnu::noinline]] void twin_dpbf16ps(TwinTile& c, const TwinTile& a, const TwinTile& b, int m,
                                     int n, int pairs) {
  using F = typename S::F;
  constexpr int kVectors = 16 / S::kLanes, kRows = 4;  // rows that share what is loaded of b
  const TileRounding rounding;
  for (int v = 0; v < kVectors; ++v)
    for (int row = 0; row < m; row += kRows) {
      F even[kRows], odd[kRows];
      for (int i = 0; i < kRows; ++i) even[i] = odd[i] = S::zero();
      for (int k = 0; k < pairs; ++k) {
        const auto y = S::load_h(b.bytes[k] + v * S::kLanes * 4);
        const F y_even = S::even(y), y_odd = S::odd(y);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
          const auto x =
              S::broadcast_pair(reinterpret_cast<const std::uint16_t*>(a.bytes[row + i] + k * 4));
          even[i] = S::fma(S::even(x), y_even, even[i]);
          odd[i] = S::fma(S::odd(x), y_odd, odd[i]);
        }
      }
      for (int i = 0; i < kRows; ++i) {
        auto* sum = reinterpret_cast<float*>(c.bytes[row + i] + v * S::kLanes * 4);
        S::store(sum, S::add(S::load(sum), S::add(even[i], odd[i])));
      }
    }
  for (int row = 0; row < kTileRows; ++row) {
    const int kept = row < m ? n * 4 : 0;
    if (kept < kTileRowBytes)
      __builtin_memset(c.bytes[row] + kept, 0, static_cast<std::uint64_t>(kTileRowBytes - kept));
  }
}

// The functions of HardwareTiles. What the processor would refuse (#UD) traps here too.
template <class S>
class TwinTiles {
 public:
  void configure(const TileConfig& config) {
    config_ = config;
    __builtin_memset(tiles_, 0, sizeof tiles_);
  }
  void release() { configure({.palette = 0}); }

  template <int kTile>
  void load(const void* base, std::int64_t stride) {
    zero<kTile>();
    for (int row = 0; row < config_.rows[kTile]; ++row)
      __builtin_memcpy(tiles_[kTile].bytes[row], static_cast<const char*>(base) + row * stride,
                       config_.row_bytes[kTile]);
  }
  template <int kTile>
  void store(void* base, std::int64_t stride) const {
    require(config_.rows[kTile] != 0);
    for (int row = 0; row < config_.rows[kTile]; ++row)
      __builtin_memcpy(static_cast<char*>(base) + row * stride, tiles_[kTile].bytes[row],
                       config_.row_bytes[kTile]);
  }
  template <int kTile>
  void zero() {
    require(config_.rows[kTile] != 0);
    __builtin_memset(&tiles_[kTile], 0, sizeof(TwinTile));
  }
  template <int kC, int kA, int kB>
  void multiply() {
    static_assert(kC != kA && kC != kB && kA != kB);
    require(config_.rows[kC] != 0 && config_.rows[kC] == config_.rows[kA] &&
            config_.row_bytes[kC] == config_.row_bytes[kB] &&
            config_.row_bytes[kA] == 4 * config_.rows[kB]);
    twin_dpbf16ps<S>(tiles_[kC], tiles_[kA], tiles_[kB], config_.rows[kC],
                     config_.row_bytes[kC] / 4, config_.rows[kB]);
  }

 private:
  static void require(bool valid) {
    if (!valid) __builtin_trap();
  }

  TileConfig config_{.palette = 0};
  TwinTile tiles_[kTiles];
};

}  // namespace
}  // namespace m3::cpu
