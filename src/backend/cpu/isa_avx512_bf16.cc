// The tables that share the kernels of AVX-512-BF16, which are compiled once:
// - "avx512-bf16": AVX-512 with VDPBF16PS, which adds 2 x 16 products of bfloat16 to 16 sums: half
//   the instructions of "avx512", and x half as large. It treats subnormal numbers as zero.
// - "amx": the same with linear layers and attention by the tiles of AMX-BF16.
// - "amx-twin": what "amx" computes, its tiles in memory. Slow; for tests.
#include "backend/cpu/amx_probe.h"
#include "backend/cpu/amx_table.h"
#include "backend/cpu/amx_twin.h"
#include "backend/cpu/isa_table.h"
#include "backend/cpu/simd_avx512_bf16.h"

namespace m3::cpu {
namespace {

template <>
struct FewRows<Bf16Dot> : WideningDot<Avx512> {
  static constexpr bool kExists = true;
  static constexpr int kChainsOfBlock = 2;
};

float multiply_bf16(std::int64_t rounds) {
  return multiply_rounds<Avx512>(rounds, _mm512_set1_epi16(0x3f80), [](__m512 sum, __m512i x) {
    return Bf16Dot::multiply_add(x, x, sum);
  });
}

float multiply_in_tiles(std::int64_t rounds) {
  amx_multiply(rounds);
  return 0;
}

constexpr Kernels make() {
  Kernels k = make_kernels<Avx512, Bf16Dot>("avx512-bf16", "VDPBF16PS zmm");
  k.multiply_in_registers = multiply_bf16;
  k.flops_per_round = 2 * kF32FlopsPerRound<Avx512>;
  return k;
}

constexpr Kernels make_amx() {
  Kernels k = with_tiles<Bf16Dot, HardwareTiles>(make(), "amx");
  k.multiply_in_registers = multiply_in_tiles;
  k.flops_per_round = kAmxFlopsPerRound;
  k.multiply_instruction = "TDPBF16PS";
  return k;
}

}  // namespace

constinit const Kernels kAvx512Bf16Kernels = make();
constinit const Kernels kAmxKernels = make_amx();
constinit const Kernels kAmxTwinKernels =
    with_tiles<Bf16Dot, TwinTiles<Avx512>>(make(), "amx-twin");

}  // namespace m3::cpu
