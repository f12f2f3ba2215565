// "x86-64": what every 64-bit x86 has (SSE2). Multiplies and adds separately. And "amx-twin" where
// there is no AVX-512-BF16: products as "amx" has them, everything else as "x86-64".
#include "backend/cpu/amx_table.h"
#include "backend/cpu/amx_twin.h"
#include "backend/cpu/isa_table.h"
#include "backend/cpu/simd_sse2.h"

namespace m3::cpu {
namespace {

// Fused without an instruction for it. The product of two bfloat16 is exact in float64. The sum is
// rounded twice, to 53 bits and then to 24, which is what once would give: the product has 16 bits
// and the old sum 24, so that where they do not fit 53 bits together, the smaller one lies too far
// below the larger one to be seen in 24.
struct FusedSse2 : Sse2 {
  static F fma(F a, F b, F c) {
    const __m128d low = _mm_add_pd(_mm_mul_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b)), _mm_cvtps_pd(c));
    const __m128d high = _mm_add_pd(_mm_mul_pd(_mm_cvtps_pd(upper(a)), _mm_cvtps_pd(upper(b))),
                                    _mm_cvtps_pd(upper(c)));
    return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
  }

 private:
  static F upper(F x) { return _mm_movehl_ps(x, x); }
};

constexpr Kernels make() {
  return make_kernels<Sse2, WideningDot<Sse2>>("x86-64", "MULPS + ADDPS");
}

}  // namespace

constinit const Kernels kX86_64Kernels = make();
constinit const Kernels kAmxTwinX86_64Kernels =
    with_tiles<WideningDot<Sse2>, TwinTiles<FusedSse2>>(make(), "amx-twin");

}  // namespace m3::cpu
