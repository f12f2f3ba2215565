// Compiled with the flags of AMX; nothing here runs unless amx_granted().
#include "backend/cpu/amx_probe.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "backend/cpu/amx_tiles.h"
#include "base/cpu_features.h"

namespace m3::cpu {
namespace {

// From the kernel's asm/prctl.h and its list of extended states.
constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr long kTileData = 18;               // XFEATURE_XTILEDATA

}  // namespace

bool amx_granted() {
  return cpu_features().amx_bf16 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

void amx_multiply(std::int64_t rounds) {
  TileConfig config;
  for (int tile = 0; tile < kTiles; ++tile) {
    config.row_bytes[tile] = kTileRowBytes;
    config.rows[tile] = kTileRows;
  }
  using Tiles = HardwareTiles;
  Tiles::configure(config);
  // Four sums, two operands each way, as a matrix product would use them.
  for (std::int64_t r = 0; r < rounds; ++r) {
    Tiles::multiply<0, 4, 6>();
    Tiles::multiply<1, 4, 7>();
    Tiles::multiply<2, 5, 6>();
    Tiles::multiply<3, 5, 7>();
  }
  Tiles::release();
}

}  // namespace m3::cpu
