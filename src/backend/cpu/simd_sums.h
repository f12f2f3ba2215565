// The end of a horizontal sum, the same for every width of vectors. For isa_*.cc only.
#pragma once

#include <emmintrin.h>

namespace m3::cpu {
namespace {

// The sums of a's, b's, c's and d's lanes, in this order.
inline __m128 sums_of_lanes(__m128 a, __m128 b, __m128 c, __m128 d) {
  const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
  const __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
  return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

}  // namespace
}  // namespace m3::cpu
