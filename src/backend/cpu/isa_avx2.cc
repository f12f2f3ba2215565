// "avx2": 256-bit vectors and fused multiply-add, on x86 since 2013.
#include "backend/cpu/isa_table.h"
#include "backend/cpu/simd_avx2.h"

namespace m3::cpu {

constinit const Kernels kAvx2Kernels = make_kernels<Avx2, WideningDot<Avx2>>("avx2", "VFMADD ymm");

}  // namespace m3::cpu
