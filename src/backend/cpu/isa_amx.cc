// "amx": linear layers and attention by the tiles of AMX-BF16, everything else as "avx512-bf16".
#include "backend/cpu/amx_probe.h"
#include "backend/cpu/isa_amx_table.h"
#include "backend/cpu/simd_avx512_bf16.h"
#include "backend/cpu/simd_avx512_transpose.h"

namespace m3::cpu {
namespace {

float multiply_in_tiles(std::int64_t rounds) {
  amx_multiply(rounds);
  return 0;
}

constexpr Kernels make() {
  Kernels k =
      with_tiles<Bf16Dot, HardwareTiles>(make_kernels<Avx512, Bf16Dot>("", "TDPBF16PS"), "amx");
  k.multiply_in_registers = multiply_in_tiles;
  k.flops_per_round = kAmxFlopsPerRound;
  return k;
}

}  // namespace

constinit const Kernels kAmxKernels = make();

}  // namespace m3::cpu
