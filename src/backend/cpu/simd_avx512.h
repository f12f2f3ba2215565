// The vectors of AVX-512 (F, BW, DQ, VL) under the names that the loops use; see simd_sse2.h, whose
// comments hold here too. For isa_*.cc only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "backend/cpu/simd_sums.h"

namespace m3::cpu {
namespace {

// The bfloat16 bits of the 128 e4m3 numbers without a sign.
struct E4m3Table {
  alignas(64) std::uint16_t bits[128];

  constexpr E4m3Table() : bits{} {
    for (int i = 8; i < 127; ++i) bits[i] = static_cast<std::uint16_t>((i << 4) + (120 << 7));
    for (int i = 1; i < 8; ++i) {  // subnormal: i times 2^-9
      const int exponent = i >= 4 ? 2 : i >= 2 ? 1 : 0;
      const int mantissa = (i << (7 - exponent)) & 0x7f;
      bits[i] = static_cast<std::uint16_t>(((127 - 9 + exponent) << 7) + mantissa);
    }
    bits[127] = 0x7fc0;
  }
};

struct Avx512 {
  using F = __m512;
  using H = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kRegisters = 32;
  static constexpr int kRowTile = 6;         // 6 x 4 sums, 6 of x and 1 of w: 31 of 32 registers
  static constexpr int kPanelTileRows = 6;   // 6 x 2 chains, and sums for one or both of the two
  static constexpr int kChunkTileRows = 12;  // 12 x 2 chains, 2 of W and 1 of x: 27 registers
  // All rows of a job: 8 x 2 chains. (Zen 4, from memory, 8 rows: 0.72 of the read bandwidth in
  // bfloat16, 0.60 in two tiles; as one of many, no faster.)
  static constexpr int kLonePanelTileRows = 8;
  // Of a tile of pairs: rows, and registers for its sums and vectors of y.
  static constexpr int kPairRows = 12, kPairRegisters = 28;

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const std::uint16_t* p) {
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
  static F load_part(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static F load_part(const std::uint16_t* p, int n) {
    const __m256i h = _mm256_maskz_loadu_epi16(mask(n), p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static void store_part(float* p, F x, int n) { _mm512_mask_storeu_ps(p, mask(n), x); }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F max_or_nan(F a, F b) {
    return _mm512_mask_mov_ps(max(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
  }
  static F zero_if_below(F x, F limit, F value) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), value);
  }
  static F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
  static F times_power_of_two(F p, F n) { return _mm512_scalef_ps(p, n); }
  static F add_to_exponent(F x, F n) {
    const __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(n), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), shifted));
  }

  static float largest(F a) {
    const F half = max_or_nan(a, _mm512_shuffle_f32x4(a, a, 0x4e));
    const F quarter = max_or_nan(half, _mm512_shuffle_f32x4(half, half, 0xb1));
    const F pair = max_or_nan(quarter, _mm512_permute_ps(quarter, 0x4e));
    return _mm512_cvtss_f32(max_or_nan(pair, _mm512_permute_ps(pair, 0xb1)));
  }
  static __m128 sums(F a, F b, F c, F d) {
    return sums_of_lanes(quarter(a), quarter(b), quarter(c), quarter(d));
  }
  static float sum(F a) { return _mm_cvtss_f32(sums(a, a, a, a)); }

  static H load_h(const void* p) { return _mm512_loadu_si512(p); }
  static H broadcast_pair(const std::uint16_t* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static void store_h(void* p, H x) { _mm512_storeu_si512(p, x); }
  static H set1_16(int x) { return _mm512_set1_epi16(static_cast<short>(x)); }
  static H set1_32(int x) { return _mm512_set1_epi32(x); }
  static H bit_and(H a, H b) { return _mm512_and_si512(a, b); }
  static H bit_or(H a, H b) { return _mm512_or_si512(a, b); }
  // x & mask | bits, in words of 32 bits.
  static H select_or(H x, int mask, int bits) {
    return _mm512_ternarylogic_epi32(x, set1_32(mask), set1_32(bits), 0xea);
  }
  static H bit_and_not(H a, H b) { return _mm512_andnot_si512(a, b); }
  static H bit_xor(H a, H b) { return _mm512_xor_si512(a, b); }
  template <int kBits>
  static H shift_left(H x) {
    return _mm512_slli_epi16(x, kBits);
  }
  template <int kBits>
  static H shift_right(H x) {
    return _mm512_srli_epi16(x, kBits);
  }
  template <int kBits>
  static H shift_right_signed(H x) {
    return _mm512_srai_epi16(x, kBits);
  }
  // Unsigned; what would be below zero is zero.
  static H sub_to_zero_16(H a, H b) { return _mm512_subs_epu16(a, b); }
  static H add_16(H a, H b) { return _mm512_add_epi16(a, b); }
  static H equal_16(H a, H b) { return _mm512_movm_epi16(_mm512_cmpeq_epi16_mask(a, b)); }
  static H add_32(H a, H b) { return _mm512_add_epi32(a, b); }
  static H sub_32(H a, H b) { return _mm512_sub_epi32(a, b); }
  template <int kBits>
  static H shift_left_32(H x) {
    return _mm512_slli_epi32(x, kBits);
  }
  template <int kBits>
  static H shift_right_32(H x) {
    return _mm512_srli_epi32(x, kBits);
  }
  static H bits(F x) { return _mm512_castps_si512(x); }
  static F from_bits(H x) { return _mm512_castsi512_ps(x); }
  static F to_float(H x) { return _mm512_cvtepi32_ps(x); }
  static H widen_8(const void* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static H widen_16(const void* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static bool all_bytes_have(H x, int mask) {
    return _mm512_testn_epi8_mask(x, _mm512_set1_epi8(static_cast<char>(mask))) == 0;
  }
  // A table of words, of whose index five bits count: every number stands in it twice.
  static H e2m1(H x) {
    const __m256i numbers = _mm256_setr_epi16(
        0, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0, static_cast<short>(0xbf00),
        static_cast<short>(0xbf80), static_cast<short>(0xbfc0), static_cast<short>(0xc000),
        static_cast<short>(0xc040), static_cast<short>(0xc080), static_cast<short>(0xc0c0));
    return _mm512_permutexvar_epi16(x, _mm512_broadcast_i64x4(numbers));
  }
  // The same 16 bytes everywhere.
  static H repeat(std::uint64_t low, std::uint64_t high) {
    return _mm512_broadcast_i32x4(
        _mm_set_epi64x(static_cast<long long>(high), static_cast<long long>(low)));
  }
  // Of each 16 bytes of x, those with these indices.
  static H pick_bytes(H x, H indices) { return _mm512_shuffle_epi8(x, indices); }
  // Integers of 16 bits.
  static H to_words(F a, F b) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(_mm512_cvtps_epi32(a))),
                              _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(b)), 1);
  }
  static void sums_of_halves(H words, std::int32_t& first, std::int32_t& second) {
    const __m512i pairs = _mm512_madd_epi16(words, set1_16(1));
    const __m256i quads =
        _mm256_hadd_epi32(_mm512_castsi512_si256(pairs), _mm512_extracti64x4_epi64(pairs, 1));
    const __m256i both = _mm256_hadd_epi32(quads, quads);
    const __m128i sums =
        _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    first = _mm_cvtsi128_si32(sums);
    second = _mm_extract_epi32(sums, 1);
  }
  static H dot_quads(H sum, H x, H w) {
    return add_products(sum, bit_and(x, set1_16(0xff)), _mm512_srli_epi16(x, 8),
                        _mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8), _mm512_srai_epi16(w, 8));
  }
  static H add_products(H sum, H x, H y, H w, H v) {
    return _mm512_add_epi32(sum,
                            _mm512_add_epi32(_mm512_madd_epi16(x, w), _mm512_madd_epi16(y, v)));
  }
  static constexpr const char* kProductsInstruction = "VPMADDWD zmm";
  static F even(H x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
  static F odd(H x) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
  }
  static void store_bf16(std::uint16_t* p, F x) {
    const __m256i h = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_bits(x), 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), h);
  }
  static void store_bf16_pairs(std::uint16_t* p, F a, F b) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    const __m512i low = _mm512_srli_epi32(bf16_bits(a), 16);
    _mm512_storeu_si512(p, _mm512_ternarylogic_epi32(low, bf16_bits(b), high, 0xf8));
  }

  // unpack works within 16-byte lanes, so the eight-byte pieces are first dealt to the lanes.
  static bool e4m3(const std::uint8_t* p, const std::uint32_t* bias, H& w0, H& w1) {
    const __m512i v = _mm512_loadu_si512(p);
    const __m512i size = _mm512_and_si512(v, _mm512_set1_epi8(0x7f));
    const __m512i from_8 = _mm512_sub_epi8(size, _mm512_set1_epi8(8));
    if (_mm512_cmpgt_epu8_mask(from_8, _mm512_set1_epi8(0x76)) != 0) [[unlikely]]
      return false;
    const __m512i deal = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const __m512i dealt = _mm512_permutexvar_epi64(deal, v);
    w0 = e4m3_half(_mm512_unpacklo_epi8(_mm512_setzero_si512(), dealt), bias[0]);
    w1 = e4m3_half(_mm512_unpackhi_epi8(_mm512_setzero_si512(), dealt), bias[1]);
    return true;
  }

  static H widen_e4m3(const std::uint8_t* p) {
    static constexpr E4m3Table kTable;
    const __m512i v = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    const auto quarter_of = [](int i) { return _mm512_load_si512(kTable.bits + 32 * i); };
    const __m512i below_64 = _mm512_permutex2var_epi16(quarter_of(0), v, quarter_of(1));
    const __m512i from_64 = _mm512_permutex2var_epi16(quarter_of(2), v, quarter_of(3));
    const __mmask32 high = _mm512_test_epi16_mask(v, _mm512_set1_epi16(0x40));
    const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(v, _mm512_set1_epi16(0x80)), 8);
    return _mm512_or_si512(_mm512_mask_mov_epi16(below_64, high, from_64), sign);
  }

 private:
  // Rounded to bfloat16, in the upper half of each lane.
  static __m512i bf16_bits(F x) {
    const __m512i u = _mm512_castps_si512(x);
    const __m512i odd_bit = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(odd_bit, _mm512_set1_epi32(0x7fff));
    const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_mov_epi32(_mm512_add_epi32(u, up), nan, quiet);
  }
  static __mmask16 mask(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static __m128 quarter(F a) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  }
  static H e4m3_half(H high_bytes, std::uint32_t bias) {
    const __m512i field = _mm512_and_si512(_mm512_srai_epi16(high_bytes, 4),
                                           _mm512_set1_epi16(static_cast<short>(0x87f0)));
    return _mm512_add_epi16(field, _mm512_set1_epi32(static_cast<int>(bias)));
  }
};

}  // namespace
}  // namespace m3::cpu
