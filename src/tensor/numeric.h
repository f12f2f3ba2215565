// The small number types and their exact conversions. Every rounding is to nearest, ties to even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace m3 {

// bfloat16: the upper half of a float32.
struct BF16 {
  std::uint16_t bits;
};
static_assert(sizeof(BF16) == 2);

inline float to_float(BF16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

// NaN stays NaN (quiet); values beyond the largest bfloat16 become infinity.
inline BF16 to_bf16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((u >> 16) | 0x40)};
  return {static_cast<std::uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}

inline float round_to_bf16(float x) {
  return to_float(to_bf16(x));
}

// IEEE binary16.
float f16_to_float(std::uint16_t bits);
std::uint16_t float_to_f16(float x);

// OCP e4m3fn: bias 7, largest 448, NaN = 0x7f and 0xff, no infinities (spec: text-model §2.4).
float e4m3_to_float(std::uint8_t bits);
// Saturates at +-448; NaN stays NaN. Inline and without calls: quantising a model is a loop over
// it.
inline std::uint8_t float_to_e4m3(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (u >> 24) & 0x80u, size = u & 0x7fffffffu;
  std::uint32_t bits;
  if (size > 0x7f800000u) {
    bits = 0x7f;  // NaN
  } else if (size >= 0x43e00000u) {
    bits = 0x7e;  // 448 and above
  } else if (size < 0x3c800000u) {
    // Below 2^-6: subnormal, in steps of 2^-9. In 2^14 + x, those steps are the last place.
    const float shifted = std::bit_cast<float>(size) + 16384.0f;
    bits = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(16384.0f);
  } else {
    // Three bits of mantissa remain; a carry runs into the exponent by itself.
    bits = ((size + 0x7ffffu + ((size >> 20) & 1u)) >> 20) - (120u << 3);
  }
  return static_cast<std::uint8_t>(sign | bits);
}

// e2m1, four bits: a sign and the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6. Neither infinity nor NaN.
// The upper bits of `bits` do not count.
inline float e2m1_to_float(std::uint8_t bits) {
  // In halves, 0 to 4 count by one, 5 and 6 by two, and 7 by four. No table: compilers vectorise
  // arithmetic.
  const int count = bits & 7;
  const int halves = count + (count > 4 ? count - 4 : 0) + (count > 6 ? 2 : 0);
  const float size = 0.5f * static_cast<float>(halves);
  return (bits & 8) ? -size : size;
}

// Saturates at 6; NaN becomes zero. A tie goes to the even bits. Comparisons alone, so that
// compilers vectorise loops over it.
inline std::uint8_t float_to_e2m1(float x) {
  const float size = std::fabs(x);
  const int bits = (size > 0.25f) + (size >= 0.75f) + (size > 1.25f) + (size >= 1.75f) +
                   (size > 2.5f) + (size >= 3.5f) + (size > 5.0f);
  return static_cast<std::uint8_t>(bits | (std::bit_cast<std::uint32_t>(x) >> 31 << 3));
}

// E8M0: 2^(bits - 127). 255 is NaN by the format; loaders refuse it before anyone multiplies by it.
inline float e8m0_to_float(std::uint8_t bits) {
  return bits == 0     ? std::bit_cast<float>(0x00400000u)  // 2^-127, a float32 subnormal
         : bits == 255 ? std::bit_cast<float>(0x7fc00000u)
                       : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 23);
}

}  // namespace m3
