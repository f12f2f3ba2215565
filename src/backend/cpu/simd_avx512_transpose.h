// 16 x 16 words turned over in registers, for loops_x_panels.h. For isa_*.cc only.
#pragma once

#include "backend/cpu/loops_x_panels.h"
#include "backend/cpu/simd_avx512.h"

namespace m3::cpu {
namespace {

template <>
struct Transpose<Avx512> {
  static void run(const void* in, std::int64_t rows, std::int64_t columns, void* out,
                  std::int64_t out_stride) {
    if (rows == 16 && columns == 16) {
      run_of<true>(in, 16, 16, out, out_stride);
    } else {
      run_of<false>(in, rows, columns, out, out_stride);
    }
  }

 private:
  template <bool kWhole>
  static void run_of(const void* in, std::int64_t rows, std::int64_t columns, void* out,
                     std::int64_t out_stride) {
    __m512 r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i)
      r[i] = kWhole || i < rows ? Avx512::load(static_cast<const float*>(in) + i * 16)
                                : Avx512::zero();
      // Pairs of rows, then fours of them, within each quarter of a vector ...
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      r[i] = low_pairs(t[i], t[i + 2]);
      r[i + 1] = high_pairs(t[i], t[i + 2]);
      r[i + 2] = low_pairs(t[i + 1], t[i + 3]);
      r[i + 3] = high_pairs(t[i + 1], t[i + 3]);
    }
    // ... then whole quarters: r[4 g + c] holds columns c, c + 4, c + 8, c + 12 of rows 4 g to
    // 4 g + 3.
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const __m512 low = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);
      const __m512 high = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
      const __m512 low_odd = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
      const __m512 high_odd = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
      t[c] = _mm512_shuffle_f32x4(low, high, 0x88);
      t[8 + c] = _mm512_shuffle_f32x4(low, high, 0xdd);
      t[4 + c] = _mm512_shuffle_f32x4(low_odd, high_odd, 0x88);
      t[12 + c] = _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd);
    }
    const auto kept = static_cast<__mmask16>((1u << rows) - 1);
#pragma GCC unroll 16
    for (int c = 0; c < 16; ++c)
      if (c < columns) _mm512_mask_storeu_ps(static_cast<float*>(out) + c * out_stride, kept, t[c]);
  }

 private:
  static __m512 low_pairs(__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static __m512 high_pairs(__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
};

}  // namespace
}  // namespace m3::cpu
