// The numbers of a panel on their way to a product: what one load of values holds, and what one
// vector of scales. For isa_*.cc only; S is a simd_*.h.
//
// A load is a vector of 4 bytes for each output. Values come out of it without their scales, which
// are applied to the sums of whole blocks, in float32: so a decoded value is exact in bfloat16, and
// the scale costs one multiplication for 16 or 32 columns.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"

namespace m3::cpu {
namespace {

// Sign, exponent and mantissa of e4m3 at their places in a bfloat16, the exponent still biased by
// 7: x's bytes in the upper halves of words.
template <class S>
typename S::H e4m3_fields(typename S::H x) {
  return S::bit_and(S::template shift_right_signed<4>(x), S::set1_16(0x87f0));
}

// The general rule, subnormal numbers and NaN included (as 0x80: see pack_byte() in panels.cc).
template <class S>
[[gnu::noinline]] typename S::H e4m3_of_any(typename S::H fields) {
  using H = typename S::H;
  const H zero = S::set1_16(0);
  const auto small = [](H mantissa) {  // in words of 32 bits
    return S::bits(S::mul(S::to_float(mantissa), S::set1(0x1p-9f)));
  };
  const H low = S::bit_and(S::template shift_right_32<4>(fields), S::set1_32(7));
  const H high = S::bit_and(S::template shift_right_32<20>(fields), S::set1_32(7));
  const H subnormal = S::bit_or(S::template shift_right_32<16>(small(low)),
                                S::bit_and(small(high), S::set1_32(static_cast<int>(0xffff0000))));
  const H signed_subnormal = S::bit_or(subnormal, S::bit_and(fields, S::set1_16(0x8000)));
  const H is_subnormal = S::equal_16(S::bit_and(fields, S::set1_16(0x0780)), zero);
  const H normal = S::add_16(fields, S::set1_16(120 << 7));
  const H is_nan = S::equal_16(fields, S::set1_16(0x8000));
  const H number =
      S::bit_or(S::bit_and(is_subnormal, signed_subnormal), S::bit_and_not(is_subnormal, normal));
  return S::bit_or(S::bit_and(is_nan, S::set1_16(0x7fc0)), S::bit_and_not(is_nan, number));
}

// A power of two from its E8M0 byte, which is not 0 (see smallest_scale() in panels.cc).
template <class S>
typename S::F e8m0_scales(const std::uint8_t* p) {
  return S::from_bits(S::template shift_left_32<23>(S::widen_8(p)));
}

// Pairs times scales. Exact, where the product is a number of bfloat16 and not subnormal.
template <class S>
typename S::H scaled_pairs(typename S::H pairs, typename S::F scale) {
  const auto even = S::bits(S::mul(S::even(pairs), scale));
  const auto odd = S::bits(S::mul(S::odd(pairs), scale));
  return S::bit_or(S::template shift_right_32<16>(even),
                   S::bit_and(odd, S::set1_32(static_cast<int>(0xffff0000))));
}

// Its blocks of columns are those of the other formats, with nothing to multiply their sums by.
template <class S>
struct Bf16Panel {
  static constexpr WeightFormat kFormat = WeightFormat::kBF16;
  static constexpr int kVectors = 1;            // pairs of columns of a load
  static constexpr std::int64_t kNear = 0;      // how far ahead one row asks; 0: not at all
  static constexpr int kRowsWithoutAsking = 5;  // see kPanelAhead
  static constexpr bool kWidens = false;        // has a way of its own to float32
  static void load(const std::uint8_t* p, typename S::H* w) { w[0] = S::load_h(p); }
  static typename S::F scales(const std::uint8_t*) { return S::set1(1); }
};

template <class S>
struct Mxfp8Panel {
  static constexpr WeightFormat kFormat = WeightFormat::kMxfp8;
  static constexpr int kVectors = 2;
  static constexpr std::int64_t kNear = 256;
  static constexpr int kRowsWithoutAsking = 1;
  static constexpr bool kWidens = true;
  static void load(const std::uint8_t* p, typename S::H* w) {
    const auto x = S::load_h(p);
    w[0] = e4m3_fields<S>(S::template shift_left<8>(x));
    w[1] = e4m3_fields<S>(x);
    if (!S::all_bytes_have(x, 0x78)) [[unlikely]] {
      w[0] = e4m3_of_any<S>(w[0]);
      w[1] = e4m3_of_any<S>(w[1]);
      return;
    }
    w[0] = S::add_16(w[0], S::set1_16(120 << 7));
    w[1] = S::add_16(w[1], S::set1_16(120 << 7));
  }
  static typename S::F scales(const std::uint8_t* p) { return e8m0_scales<S>(p); }

  // The numbers times 2^8 in float32, even and odd columns of both pairs: an exponent of four bits
  // plus 128 takes no addition. What a byte's place is shifted by, a load one byte before shifts.
  static void load_wide(const std::uint8_t* p, typename S::F (&w)[2][2]) {
    const auto x = S::load_h(p), shifted = S::load_h(p - 1);
    if (!S::all_bytes_have(x, 0x78)) [[unlikely]] {
      typename S::H pairs[2];
      load(p, pairs);
      for (int u = 0; u < 2; ++u) {
        w[u][0] = S::mul(S::even(pairs[u]), S::set1(0x1p8f));
        w[u][1] = S::mul(S::odd(pairs[u]), S::set1(0x1p8f));
      }
      return;
    }
    widen(shifted, w[0]);
    widen(x, w[1]);
  }
  static typename S::F wide_scales(const std::uint8_t* p) {
    return S::mul(scales(p), S::set1(0x1p-8f));
  }

 private:
  static void widen(typename S::H x, typename S::F (&w)[2]) {
    const auto fields = S::template shift_right_signed<4>(x);
    w[0] = with_exponent(S::template shift_left_32<16>(fields));
    w[1] = with_exponent(fields);
  }
  static typename S::F with_exponent(typename S::H x) {
    return S::from_bits(S::select_or(x, static_cast<int>(0x87f00000), 128 << 23));
  }
};

// Shifts and tables wait for the same ports of the processor; a load one byte further on shifts
// without them (Zen 4, one row from memory: 25.5 GB/s a core with it, 22 with three shifts).
template <class S>
struct E2m1Panel {
  static constexpr int kVectors = 4;
  static constexpr std::int64_t kNear = 0;
  static constexpr int kRowsWithoutAsking = 1;
  static constexpr bool kWidens = false;
  static void load(const std::uint8_t* p, typename S::H* w) {
    const auto even = S::load_h(p), odd = S::load_h(p + 1);
    w[0] = S::e2m1(even);
    w[1] = S::e2m1(S::template shift_right<4>(even));
    w[2] = S::e2m1(odd);
    w[3] = S::e2m1(S::template shift_right<4>(odd));
  }
};

template <class S>
struct Mxfp4Panel : E2m1Panel<S> {
  static constexpr WeightFormat kFormat = WeightFormat::kMxfp4;
  static typename S::F scales(const std::uint8_t* p) { return e8m0_scales<S>(p); }
};

template <class S>
struct Nvfp4Panel : E2m1Panel<S> {
  static constexpr WeightFormat kFormat = WeightFormat::kNvfp4;
  // The float32 of the same bits is smaller by the difference of the biases.
  static typename S::F scales(const std::uint8_t* p) {
    using H = typename S::H;
    const H bytes = S::widen_8(p);
    const H size = S::template shift_left_32<20>(S::bit_and(bytes, S::set1_32(0x7f)));
    const H sign = S::template shift_left_32<24>(S::bit_and(bytes, S::set1_32(0x80)));
    return S::from_bits(S::bit_or(S::bits(S::mul(S::from_bits(size), S::set1(0x1p120f))), sign));
  }
};

// float16 scales of int8: as for e4m3, which leaves out infinity and NaN; loaders refuse them.
template <class S>
typename S::F f16_scales(const std::uint8_t* p) {
  using H = typename S::H;
  const H words = S::widen_16(p);
  const H size = S::template shift_left_32<13>(S::bit_and(words, S::set1_32(0x7fff)));
  const H sign = S::template shift_left_32<16>(S::bit_and(words, S::set1_32(0x8000)));
  return S::from_bits(S::bit_or(S::bits(S::mul(S::from_bits(size), S::set1(0x1p112f))), sign));
}

}  // namespace
}  // namespace m3::cpu
