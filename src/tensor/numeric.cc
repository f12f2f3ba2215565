#include "tensor/numeric.h"

#include <array>

namespace m3 {
namespace {

// Rounds x / 2^exponent to an integer, ties to even. x is finite and the result small.
int round_scaled(float x, int exponent) {
  return static_cast<int>(std::nearbyint(std::ldexp(static_cast<double>(x), -exponent)));
}

std::array<float, 256> make_e4m3_table() {
  std::array<float, 256> table{};
  for (int bits = 0; bits < 256; ++bits) {
    const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
    float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if ((bits & 0x7f) == 0x7f) value = std::bit_cast<float>(0x7fc00000u);
    table[static_cast<std::size_t>(bits)] = (bits & 0x80) ? -value : value;
  }
  return table;
}

}  // namespace

float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 31u, mantissa = bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

std::uint16_t float_to_f16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
  const float size = std::fabs(x);
  if (std::isnan(x)) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (size >= 65520.0f) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (size < 6.103515625e-5f)  // below 2^-14: subnormal, in steps of 2^-24
    return static_cast<std::uint16_t>(sign | round_scaled(size, -24));
  int exponent = 0;
  std::frexp(size, &exponent);                             // size = f * 2^exponent, f in [0.5, 1)
  const int mantissa = round_scaled(size, exponent - 11);  // in [1024, 2048]
  // A mantissa of 2048 carries into the exponent by itself.
  return static_cast<std::uint16_t>(sign | (((exponent + 13) << 10) + mantissa));
}

float e4m3_to_float(std::uint8_t bits) {
  static const std::array<float, 256> table = make_e4m3_table();
  return table[bits];
}

}  // namespace m3
