// "avx512": 512-bit vectors (F, BW, DQ, VL); bfloat16 is multiplied in float32.
#include "backend/cpu/isa_table.h"
#include "backend/cpu/simd_avx512.h"

namespace m3::cpu {

constinit const Kernels kAvx512Kernels =
    make_kernels<Avx512, WideningDot<Avx512>>("avx512", "VFMADD zmm");

}  // namespace m3::cpu
