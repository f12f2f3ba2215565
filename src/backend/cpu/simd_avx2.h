// The vectors of AVX2 with FMA under the names that the loops use; see simd_sse2.h, whose comments
// hold here too. For isa_*.cc only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "backend/cpu/simd_sums.h"

namespace m3::cpu {
namespace {

struct Avx2 {
  using F = __m256;
  using H = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kRegisters = 16;
  static constexpr int kRowTile = 3;        // 3 x 4 sums, 3 of x and 1 of w: all 16 registers
  static constexpr int kPanelTileRows = 4;  // 4 x 2 chains: with 3, twice the time
  static constexpr int kChunkTileRows = 6;  // 6 x 2 chains, 2 of W and 1 of x: 15 of 16 registers
  static constexpr int kLonePanelTileRows = 4;
  // Of a tile of pairs: rows, and registers for its sums and vectors of y.
  static constexpr int kPairRows = 6, kPairRegisters = 14;

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load(const std::uint16_t* p) {
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
  }
  template <typename T>
  static F load_part(const T* p, int n) {
    alignas(32) T part[kLanes] = {};
    __builtin_memcpy(part, p, static_cast<unsigned>(n) * sizeof(T));
    return load(part);
  }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static void store_part(float* p, F x, int n) {
    alignas(32) float part[kLanes];
    store(part, x);
    __builtin_memcpy(p, part, static_cast<unsigned>(n) * sizeof(float));
  }

  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F max_or_nan(F a, F b) {
    return _mm256_blendv_ps(max(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }
  static F zero_if_below(F x, F limit, F value) {
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), value);
  }
  static F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F times_power_of_two(F p, F n) {
    const __m256i exponent = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_set1_ps(-127.0f), n));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
  }
  static F add_to_exponent(F x, F n) {
    const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), shifted));
  }

  static float largest(F a) {
    const F half = max_or_nan(a, _mm256_permute2f128_ps(a, a, 1));
    const F quarter = max_or_nan(half, _mm256_permute_ps(half, 0x4e));
    return _mm256_cvtss_f32(max_or_nan(quarter, _mm256_permute_ps(quarter, 0xb1)));
  }
  static __m128 sums(F a, F b, F c, F d) {
    return sums_of_lanes(half(a), half(b), half(c), half(d));
  }
  static float sum(F a) { return _mm_cvtss_f32(sums(a, a, a, a)); }

  static H load_h(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static H broadcast_pair(const std::uint16_t* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
  }
  static void store_h(void* p, H x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
  static H set1_16(int x) { return _mm256_set1_epi16(static_cast<short>(x)); }
  static H set1_32(int x) { return _mm256_set1_epi32(x); }
  static H bit_and(H a, H b) { return _mm256_and_si256(a, b); }
  static H bit_or(H a, H b) { return _mm256_or_si256(a, b); }
  static H select_or(H x, int mask, int bits) {
    return bit_or(bit_and(x, set1_32(mask)), set1_32(bits));
  }
  static H bit_and_not(H a, H b) { return _mm256_andnot_si256(a, b); }
  static H bit_xor(H a, H b) { return _mm256_xor_si256(a, b); }
  template <int kBits>
  static H shift_left(H x) {
    return _mm256_slli_epi16(x, kBits);
  }
  template <int kBits>
  static H shift_right(H x) {
    return _mm256_srli_epi16(x, kBits);
  }
  template <int kBits>
  static H shift_right_signed(H x) {
    return _mm256_srai_epi16(x, kBits);
  }
  static H sub_to_zero_16(H a, H b) { return _mm256_subs_epu16(a, b); }
  static H add_16(H a, H b) { return _mm256_add_epi16(a, b); }
  static H equal_16(H a, H b) { return _mm256_cmpeq_epi16(a, b); }
  static H add_32(H a, H b) { return _mm256_add_epi32(a, b); }
  static H sub_32(H a, H b) { return _mm256_sub_epi32(a, b); }
  template <int kBits>
  static H shift_left_32(H x) {
    return _mm256_slli_epi32(x, kBits);
  }
  template <int kBits>
  static H shift_right_32(H x) {
    return _mm256_srli_epi32(x, kBits);
  }
  static H bits(F x) { return _mm256_castps_si256(x); }
  static F from_bits(H x) { return _mm256_castsi256_ps(x); }
  static F to_float(H x) { return _mm256_cvtepi32_ps(x); }
  static H widen_8(const void* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
  }
  static H widen_16(const void* p) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static bool all_bytes_have(H x, int mask) {
    const H none = _mm256_cmpeq_epi8(_mm256_and_si256(x, _mm256_set1_epi8(static_cast<char>(mask))),
                                     _mm256_setzero_si256());
    return _mm256_testz_si256(none, none) != 0;
  }
  // Two tables of bytes, looked up by the nibble, once in the lower and once in the upper byte of a
  // word; the other byte then is 0, for which both tables hold 0.
  static H e2m1(H x) {
    constexpr char k80 = static_cast<char>(0x80), kC0 = static_cast<char>(0xc0);
    constexpr char kBF = static_cast<char>(0xbf);
    const H low = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, k80, kC0, 0, 0x40, k80, kC0, 0, 0, k80, kC0, 0, 0x40, k80, kC0));
    const H high = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, 0, kBF, kBF, kBF, kC0, kC0, kC0, kC0));
    const H nibble = bit_and(x, set1_16(15));
    return bit_or(_mm256_shuffle_epi8(low, nibble),
                  _mm256_shuffle_epi8(high, _mm256_slli_epi16(nibble, 8)));
  }
  static H dot_quads(H sum, H x, H w) {
    return add_products(sum, bit_and(x, set1_16(0xff)), _mm256_srli_epi16(x, 8),
                        _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(w, 8));
  }
  static H add_products(H sum, H x, H y, H w, H v) {
    return _mm256_add_epi32(sum,
                            _mm256_add_epi32(_mm256_madd_epi16(x, w), _mm256_madd_epi16(y, v)));
  }
  static constexpr const char* kProductsInstruction = "VPMADDWD ymm";
  static F even(H x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
  static F odd(H x) {
    return _mm256_castsi256_ps(
        _mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
  }
  static void store_bf16(std::uint16_t* p, F x) {
    const __m256i wide = _mm256_srai_epi32(bf16_bits(x), 16);
    const __m256i pairs = _mm256_packs_epi32(wide, wide);
    const __m256i dealt = _mm256_permute4x64_epi64(pairs, 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(dealt));
  }
  static void store_bf16_pairs(std::uint16_t* p, F a, F b) {
    const __m256i low = _mm256_srli_epi32(bf16_bits(a), 16);
    store_h(p, _mm256_blend_epi16(low, bf16_bits(b), 0xaa));
  }

  static bool e4m3(const std::uint8_t* p, const std::uint32_t* bias, H& w0, H& w1) {
    const __m256i v = load_h(p);
    const __m256i size = _mm256_and_si256(v, _mm256_set1_epi8(0x7f));
    const __m256i from_8 = _mm256_sub_epi8(size, _mm256_set1_epi8(8));
    const __m256i common =
        _mm256_cmpeq_epi8(_mm256_min_epu8(from_8, _mm256_set1_epi8(0x76)), from_8);
    if (_mm256_movemask_epi8(common) != -1) [[unlikely]]
      return false;
    const __m256i dealt = _mm256_permute4x64_epi64(v, 0xd8);
    w0 = e4m3_half(_mm256_unpacklo_epi8(_mm256_setzero_si256(), dealt), bias[0]);
    w1 = e4m3_half(_mm256_unpackhi_epi8(_mm256_setzero_si256(), dealt), bias[0]);
    return true;
  }

  static H widen_e4m3(const std::uint8_t* p) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i v = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i size = _mm256_and_si256(v, _mm256_set1_epi16(0x7f));
    const __m256i normal =
        _mm256_add_epi16(_mm256_slli_epi16(size, 4), _mm256_set1_epi16(120 << 7));
    const auto small = [](__m256i n) {
      const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(n), _mm256_set1_ps(0x1p-9f));
      return _mm256_srli_epi32(_mm256_castps_si256(value), 16);
    };
    const __m256i subnormal = _mm256_packs_epi32(small(_mm256_unpacklo_epi16(size, zero)),
                                                 small(_mm256_unpackhi_epi16(size, zero)));
    const __m256i is_normal = _mm256_cmpgt_epi16(size, _mm256_set1_epi16(7));
    const __m256i is_nan = _mm256_cmpeq_epi16(size, _mm256_set1_epi16(0x7f));
    const __m256i bits = _mm256_blendv_epi8(subnormal, normal, is_normal);
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(v, _mm256_set1_epi16(0x80)), 8);
    return _mm256_or_si256(_mm256_or_si256(bits, sign),
                           _mm256_and_si256(is_nan, _mm256_set1_epi16(0x7fc0)));
  }

 private:
  // Rounded to bfloat16, in the upper half of each lane.
  static __m256i bf16_bits(F x) {
    const __m256i u = _mm256_castps_si256(x);
    const __m256i odd_bit = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(odd_bit, _mm256_set1_epi32(0x7fff));
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_add_epi32(u, up), quiet, nan);
  }
  static __m128 half(F a) {
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  }
  static H e4m3_half(H high_bytes, std::uint32_t bias) {
    const __m256i field = _mm256_and_si256(_mm256_srai_epi16(high_bytes, 4),
                                           _mm256_set1_epi16(static_cast<short>(0x87f0)));
    return _mm256_add_epi16(field, _mm256_set1_epi32(static_cast<int>(bias)));
  }
};

}  // namespace
}  // namespace m3::cpu
