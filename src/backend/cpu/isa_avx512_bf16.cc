// "avx512-bf16": AVX-512 with VDPBF16PS, which adds 2 x 16 products of bfloat16 to 16 sums: half
// the instructions of "avx512", and x half as large. It treats subnormal numbers as zero.
#include "backend/cpu/isa_table.h"
#include "backend/cpu/simd_avx512_bf16.h"

namespace m3::cpu {
namespace {

float multiply_bf16(std::int64_t rounds) {
  return multiply_rounds<Avx512>(rounds, _mm512_set1_epi16(0x3f80), [](__m512 sum, __m512i x) {
    return Bf16Dot::multiply_add(x, x, sum);
  });
}

constexpr Kernels make() {
  Kernels k = make_kernels<Avx512, Bf16Dot>("avx512-bf16", "VDPBF16PS zmm");
  k.multiply_in_registers = multiply_bf16;
  k.flops_per_round = 2 * kF32FlopsPerRound<Avx512>;
  return k;
}

}  // namespace

constinit const Kernels kAvx512Bf16Kernels = make();

}  // namespace m3::cpu
