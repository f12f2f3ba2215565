// The vectors of every 64-bit x86 under the names that the loops use. For isa_*.cc only.
//
// F holds kLanes float32, H 2 * kLanes bfloat16. Everything is in an unnamed namespace: each
// instruction set has its own copy of every loop, and none can be linked in place of another's.
#pragma once

#include <emmintrin.h>

#include <cstdint>

#include "backend/cpu/simd_sums.h"

namespace m3::cpu {
namespace {

struct Sse2 {
  using F = __m128;
  using H = __m128i;
  static constexpr int kLanes = 4;
  static constexpr int kRegisters = 16;
  static constexpr int kRowTile = 2;        // 2 x 4 sums, 2 of x, 1 of w, and the products
  static constexpr int kPanelTileRows = 4;  // 4 x 2 chains
  static constexpr int kChunkTileRows = 4;
  static constexpr int kLonePanelTileRows = 4;
  // Of a tile of pairs: rows, and registers for its sums and vectors of y.
  static constexpr int kPairRows = 4, kPairRegisters = 10;

  static F zero() { return _mm_setzero_ps(); }
  static F set1(float x) { return _mm_set1_ps(x); }
  static F load(const float* p) { return _mm_loadu_ps(p); }
  // bfloat16 is the upper half of a float32.
  static F load(const std::uint16_t* p) {
    const __m128i h = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), h));
  }
  // The first n < kLanes elements, then zeros; touches no byte beyond them.
  template <typename T>
  static F load_part(const T* p, int n) {
    alignas(16) T part[kLanes] = {};
    __builtin_memcpy(part, p, static_cast<unsigned>(n) * sizeof(T));
    return load(part);
  }
  static void store(float* p, F x) { _mm_storeu_ps(p, x); }
  static void store_part(float* p, F x, int n) {
    alignas(16) float part[kLanes];
    store(part, x);
    __builtin_memcpy(p, part, static_cast<unsigned>(n) * sizeof(float));
  }

  static F add(F a, F b) { return _mm_add_ps(a, b); }
  static F sub(F a, F b) { return _mm_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm_mul_ps(a, b); }
  static F div(F a, F b) { return _mm_div_ps(a, b); }
  // a * b + c; rounds twice here, once where there is an instruction for it.
  static F fma(F a, F b, F c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
  // Where one operand is NaN, min and max return b.
  static F min(F a, F b) { return _mm_min_ps(a, b); }
  static F max(F a, F b) { return _mm_max_ps(a, b); }
  static F max_or_nan(F a, F b) {
    const F nan = _mm_cmpunord_ps(a, a);
    return _mm_or_ps(_mm_and_ps(nan, a), _mm_andnot_ps(nan, max(a, b)));
  }
  // `value` where x >= limit or x is NaN.
  static F zero_if_below(F x, F limit, F value) {
    return _mm_and_ps(_mm_cmpnlt_ps(x, limit), value);
  }
  // To nearest, |x| < 2^31.
  static F round(F x) { return _mm_cvtepi32_ps(_mm_cvtps_epi32(x)); }
  // p * 2^n for whole n <= 127, p around 1; below 2^-126 it may be zero.
  static F times_power_of_two(F p, F n) {
    const __m128i exponent = _mm_cvtps_epi32(_mm_max_ps(_mm_set1_ps(-127.0f), n));
    const __m128i power = _mm_slli_epi32(_mm_add_epi32(exponent, _mm_set1_epi32(127)), 23);
    return _mm_mul_ps(p, _mm_castsi128_ps(power));
  }
  // x * 2^i, where i are the low bits of n. The product must be a normal number.
  static F add_to_exponent(F x, F n) {
    const __m128i shifted = _mm_slli_epi32(_mm_castps_si128(n), 23);
    return _mm_castsi128_ps(_mm_add_epi32(_mm_castps_si128(x), shifted));
  }

  // NaN if any lane is.
  static float largest(F a) {
    const F half = max_or_nan(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(max_or_nan(half, _mm_shuffle_ps(half, half, 1)));
  }
  // The sums over the lanes, halving: lane l + lane l + kLanes / 2, and so on.
  static __m128 sums(F a, F b, F c, F d) { return sums_of_lanes(a, b, c, d); }
  static float sum(F a) { return _mm_cvtss_f32(sums(a, a, a, a)); }

  static H load_h(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  // p[0] and p[1] in every pair of lanes.
  static H broadcast_pair(const std::uint16_t* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return _mm_set1_epi32(pair);
  }
  static void store_h(void* p, H x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }
  static H set1_16(int x) { return _mm_set1_epi16(static_cast<short>(x)); }
  static H set1_32(int x) { return _mm_set1_epi32(x); }
  static H bit_and(H a, H b) { return _mm_and_si128(a, b); }
  static H bit_or(H a, H b) { return _mm_or_si128(a, b); }
  static H select_or(H x, int mask, int bits) {
    return bit_or(bit_and(x, set1_32(mask)), set1_32(bits));
  }
  static H bit_and_not(H a, H b) { return _mm_andnot_si128(a, b); }  // ~a & b
  static H bit_xor(H a, H b) { return _mm_xor_si128(a, b); }
  // Words of 16 bits.
  template <int kBits>
  static H shift_left(H x) {
    return _mm_slli_epi16(x, kBits);
  }
  template <int kBits>
  static H shift_right(H x) {
    return _mm_srli_epi16(x, kBits);
  }
  template <int kBits>
  static H shift_right_signed(H x) {
    return _mm_srai_epi16(x, kBits);
  }
  static H sub_to_zero_16(H a, H b) { return _mm_subs_epu16(a, b); }  // unsigned, not below zero
  static H add_16(H a, H b) { return _mm_add_epi16(a, b); }
  static H equal_16(H a, H b) { return _mm_cmpeq_epi16(a, b); }  // all ones where equal
  // Words of 32 bits.
  static H add_32(H a, H b) { return _mm_add_epi32(a, b); }
  static H sub_32(H a, H b) { return _mm_sub_epi32(a, b); }
  template <int kBits>
  static H shift_left_32(H x) {
    return _mm_slli_epi32(x, kBits);
  }
  template <int kBits>
  static H shift_right_32(H x) {
    return _mm_srli_epi32(x, kBits);
  }
  static H bits(F x) { return _mm_castps_si128(x); }
  static F from_bits(H x) { return _mm_castsi128_ps(x); }
  static F to_float(H x) { return _mm_cvtepi32_ps(x); }  // of signed integers
  static H widen_8(const void* p) {                      // kLanes bytes, unsigned
    int bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    const __m128i words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), _mm_setzero_si128());
    return _mm_unpacklo_epi16(words, _mm_setzero_si128());
  }
  static H widen_16(const void* p) {  // kLanes words, unsigned
    return _mm_unpacklo_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(p)), _mm_setzero_si128());
  }
  // Whether every byte of x has a bit of `mask`.
  static bool all_bytes_have(H x, int mask) {
    const H none = _mm_cmpeq_epi8(_mm_and_si128(x, _mm_set1_epi8(static_cast<char>(mask))),
                                  _mm_setzero_si128());
    return _mm_movemask_epi8(none) == 0;
  }
  // Of each word the lowest four bits, an e2m1 number, as bfloat16: the bits move up by six, and
  // the exponents' biases differ by 126; but 0.5 and 0 are subnormal.
  static H e2m1(H x) {
    const H size = bit_and(x, set1_16(7));
    const H half = bit_and(equal_16(size, set1_16(1)), set1_16(64));
    const H normal = _mm_sub_epi16(add_16(_mm_slli_epi16(size, 6), set1_16(126 << 7)), half);
    const H sign = _mm_slli_epi16(bit_and(x, set1_16(8)), 12);
    return bit_and_not(equal_16(size, _mm_setzero_si128()), bit_or(normal, sign));
  }
  // sum + the four products of bytes of each word of 32 bits; x unsigned, w signed.
  static H dot_quads(H sum, H x, H w) {
    return add_products(sum, bit_and(x, set1_16(0xff)), _mm_srli_epi16(x, 8),
                        _mm_srai_epi16(_mm_slli_epi16(w, 8), 8), _mm_srai_epi16(w, 8));
  }
  // sum + x w + y v, of each word of 32 bits the products of its two words of 16 bits.
  static H add_products(H sum, H x, H y, H w, H v) {
    return _mm_add_epi32(sum, _mm_add_epi32(_mm_madd_epi16(x, w), _mm_madd_epi16(y, v)));
  }
  static constexpr const char* kProductsInstruction = "PMADDWD xmm";
  // Elements 0, 2, 4, ... and 1, 3, 5, ...: a shift or a mask each, no shuffle.
  static F even(H x) { return _mm_castsi128_ps(_mm_slli_epi32(x, 16)); }
  static F odd(H x) {
    return _mm_castsi128_ps(_mm_and_si128(x, _mm_set1_epi32(static_cast<int>(0xffff0000))));
  }
  // To nearest, ties to even; NaN stays NaN.
  static void store_bf16(std::uint16_t* p, F x) {
    const __m128i wide = _mm_srai_epi32(bf16_bits(x), 16);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi32(wide, wide));
  }
  // Of each lane, a's number and then b's.
  static void store_bf16_pairs(std::uint16_t* p, F a, F b) {
    const __m128i high = _mm_set1_epi32(static_cast<int>(0xffff0000));
    const __m128i low = _mm_srli_epi32(bf16_bits(a), 16);
    store_h(p, _mm_or_si128(low, _mm_and_si128(bf16_bits(b), high)));
  }

  // 4 * kLanes e4m3 bytes to bfloat16, times their scales. Both have sign, exponent, mantissa, so
  // the byte's seven low bits move up by four, and the difference of the exponents' biases and the
  // scale are one addition: bias[i] = (scale byte - 7) << 7 in both halves, for the i-th 32 bytes.
  // False, and nothing done, if a byte is zero, subnormal or NaN: those follow another rule.
  static bool e4m3(const std::uint8_t* p, const std::uint32_t* bias, H& w0, H& w1) {
    const __m128i v = load_h(p);
    const __m128i size = _mm_and_si128(v, _mm_set1_epi8(0x7f));
    const __m128i from_8 = _mm_sub_epi8(size, _mm_set1_epi8(8));  // 0..0x76: an ordinary number
    const __m128i common = _mm_cmpeq_epi8(_mm_min_epu8(from_8, _mm_set1_epi8(0x76)), from_8);
    if (_mm_movemask_epi8(common) != 0xffff) [[unlikely]]
      return false;
    w0 = e4m3_half(_mm_unpacklo_epi8(_mm_setzero_si128(), v), bias[0]);
    w1 = e4m3_half(_mm_unpackhi_epi8(_mm_setzero_si128(), v), bias[0]);
    return true;
  }

  // 2 * kLanes e4m3 bytes of any kind to bfloat16, which holds them all.
  static H widen_e4m3(const std::uint8_t* p) {
    const __m128i zero = _mm_setzero_si128();
    const __m128i v = _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), zero);
    const __m128i size = _mm_and_si128(v, _mm_set1_epi16(0x7f));
    const __m128i normal = _mm_add_epi16(_mm_slli_epi16(size, 4), _mm_set1_epi16(120 << 7));
    // Subnormal: so many times 2^-9.
    const auto small = [](__m128i n) {
      const __m128 value = _mm_mul_ps(_mm_cvtepi32_ps(n), _mm_set1_ps(0x1p-9f));
      return _mm_srli_epi32(_mm_castps_si128(value), 16);
    };
    const __m128i subnormal = _mm_packs_epi32(small(_mm_unpacklo_epi16(size, zero)),
                                              small(_mm_unpackhi_epi16(size, zero)));
    const __m128i is_normal = _mm_cmpgt_epi16(size, _mm_set1_epi16(7));
    const __m128i is_nan = _mm_cmpeq_epi16(size, _mm_set1_epi16(0x7f));
    const __m128i bits =
        _mm_or_si128(_mm_and_si128(is_normal, normal), _mm_andnot_si128(is_normal, subnormal));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(v, _mm_set1_epi16(0x80)), 8);
    return _mm_or_si128(_mm_or_si128(bits, sign), _mm_and_si128(is_nan, _mm_set1_epi16(0x7fc0)));
  }

 private:
  // Rounded to bfloat16, in the upper half of each lane.
  static __m128i bf16_bits(F x) {
    const __m128i u = _mm_castps_si128(x);
    const __m128i odd_bit = _mm_and_si128(_mm_srli_epi32(u, 16), _mm_set1_epi32(1));
    const __m128i rounded = _mm_add_epi32(u, _mm_add_epi32(odd_bit, _mm_set1_epi32(0x7fff)));
    const __m128i quiet = _mm_or_si128(u, _mm_set1_epi32(0x400000));
    const __m128i nan = _mm_castps_si128(_mm_cmpunord_ps(x, x));
    return _mm_or_si128(_mm_and_si128(nan, quiet), _mm_andnot_si128(nan, rounded));
  }
  static H e4m3_half(H high_bytes, std::uint32_t bias) {
    const __m128i field =
        _mm_and_si128(_mm_srai_epi16(high_bytes, 4), _mm_set1_epi16(static_cast<short>(0x87f0)));
    return _mm_add_epi16(field, _mm_set1_epi32(static_cast<int>(bias)));
  }
};

}  // namespace
}  // namespace m3::cpu
