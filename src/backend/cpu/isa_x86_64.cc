// "x86-64": what every 64-bit x86 has (SSE2). Multiplies and adds separately.
#include "backend/cpu/isa_table.h"
#include "backend/cpu/simd_sse2.h"

namespace m3::cpu {

constinit const Kernels kX86_64Kernels =
    make_kernels<Sse2, WideningDot<Sse2>>("x86-64", "MULPS + ADDPS");

}  // namespace m3::cpu
