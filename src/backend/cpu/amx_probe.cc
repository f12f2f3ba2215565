// Compiled with the flags of AMX; nothing here runs unless amx_granted().
#include "backend/cpu/amx_probe.h"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cpu_features.h"

namespace m3::cpu {
namespace {

// From the kernel's asm/prctl.h and its list of extended states.
constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr long kTileData = 18;               // XFEATURE_XTILEDATA

// The 64 bytes that LDTILECFG reads.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace

bool amx_granted() {
  return cpu_features().amx_bf16 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

void amx_multiply(std::int64_t rounds) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = 16;
  }
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  // Four sums, two operands each way, as a matrix product would use them.
  for (std::int64_t r = 0; r < rounds; ++r) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

}  // namespace m3::cpu
