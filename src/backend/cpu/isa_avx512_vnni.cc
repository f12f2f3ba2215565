// "avx512-vnni": "avx512" with the 8-bit products of AVX-512-VNNI, for int8 and for few rows of
// 4-bit weights. The bits are those of "avx512".
#include "backend/cpu/isa_table.h"
#include "backend/cpu/simd_avx512.h"
#include "backend/cpu/simd_avx512_vnni.h"

namespace m3::cpu {

constinit const Kernels kAvx512VnniKernels =
    make_kernels<Avx512, WideningDot<Avx512, VnniQuads>>("avx512-vnni", "VFMADD zmm");

}  // namespace m3::cpu
