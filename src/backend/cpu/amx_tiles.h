// The tiles of AMX behind a small shim, for isa_*.cc and amx_probe.cc only: the product in
// loops_amx.h is written against the functions of HardwareTiles, and amx_twin.h has the same ones
// for machines without the instructions.
//
// There are eight tiles of up to 16 rows of up to 64 bytes; a configuration gives each its shape.
// It belongs to the thread, and costs the operating system a larger context until it is released.
#pragma once

#include <cstdint>

namespace m3::cpu {
namespace {

// The 64 bytes that LDTILECFG reads.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

constexpr int kTiles = 8;
constexpr int kTileRows = 16;
constexpr int kTileRowBytes = 64;
constexpr int kTileBytes = kTileRows * kTileRowBytes;

// How tiles round, as MXCSR while it lives: to nearest even, subnormal operands and results are
// zeros, nothing is trapped. What it is to hold for has to go through memory between its ends.
class TileRounding {
 public:
  TileRounding() {
    const std::uint32_t csr = 0x9fc0;
    asm volatile("stmxcsr %0" : "=m"(saved_)::"memory");
    asm volatile("ldmxcsr %0" ::"m"(csr) : "memory");
  }
  ~TileRounding() { asm volatile("ldmxcsr %0" ::"m"(saved_) : "memory"); }
  TileRounding(const TileRounding&) = delete;
  TileRounding& operator=(const TileRounding&) = delete;

 private:
  std::uint32_t saved_;
};

// Instructions by name and not the compiler's intrinsics: GCC's make the tile's number a part of
// the text, so that it cannot be a template's argument, and do not say that they touch memory.
// Only after amx_granted(); the calling thread's tiles are lost.
struct HardwareTiles {
  // Also sets all tiles to zero.
  static void configure(const TileConfig& config) {
    asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
  }
  static void release() { asm volatile("tilerelease" ::: "memory"); }

  // Rows at `base`, base + stride, ...; bytes.
  template <int kTile>
  static void load(const void* base, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void store(void* base, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(base), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  // TDPBF16PS: C [m, n] float32 += A [m, k pairs] x B [k pairs, n pairs], pairs of bfloat16.
  template <int kC, int kA, int kB>
  static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
};

}  // namespace
}  // namespace m3::cpu
