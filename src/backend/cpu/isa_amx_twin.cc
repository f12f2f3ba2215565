// "amx-twin": what "amx" computes, its tiles in memory (amx_twin.h). Slow; for tests.
#include "backend/cpu/amx_twin.h"
#include "backend/cpu/isa_amx_table.h"
#include "backend/cpu/simd_avx512_bf16.h"
#include "backend/cpu/simd_avx512_transpose.h"

namespace m3::cpu {

constinit const Kernels kAmxTwinKernels = with_tiles<Bf16Dot, TwinTiles<Avx512>>(
    make_kernels<Avx512, Bf16Dot>("", "VFMADD zmm"), "amx-twin");

}  // namespace m3::cpu
