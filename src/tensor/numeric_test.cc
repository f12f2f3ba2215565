#include "tensor/numeric.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace m3 {
namespace {

// The number nearest to x among those that `decode` gives for bits 0..last, ties to even bits.
template <typename Decode>
std::uint32_t nearest(double x, std::uint32_t last, Decode decode) {
  std::uint32_t best = 0;
  for (std::uint32_t bits = 0; bits <= last; ++bits) {
    const double now = std::abs(decode(bits) - x), before = std::abs(decode(best) - x);
    if (now < before || (now == before && bits % 2 == 0)) best = bits;
  }
  return best;
}

TEST(Numeric, Bf16RoundsToNearestEven) {
  EXPECT_EQ(to_bf16(257.0f).bits, 0x4380);  // a tie: 256, not 258
  EXPECT_EQ(to_bf16(259.0f).bits, 0x4382);  // a tie: 260
  EXPECT_EQ(to_bf16(0.36514835f).bits, 0x3EBB);
  EXPECT_EQ(to_bf16(-0.0f).bits, 0x8000);
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()).bits, 0x7F80);
  EXPECT_TRUE(std::isnan(round_to_bf16(std::nanf("1"))));
  for (std::uint32_t bits = 0; bits < 0x7F80; ++bits) {
    const BF16 x{static_cast<std::uint16_t>(bits)};
    EXPECT_EQ(to_bf16(to_float(x)).bits, x.bits);
  }
}

// spec: text-model §9.4.
TEST(Numeric, E4m3Values) {
  EXPECT_EQ(e4m3_to_float(0x01), 0.001953125f);
  EXPECT_EQ(e4m3_to_float(0x07), 0.013671875f);
  EXPECT_EQ(e4m3_to_float(0x08), 0.015625f);
  EXPECT_EQ(e4m3_to_float(0x3C), 1.5f);
  EXPECT_EQ(e4m3_to_float(0x7E), 448.0f);
  EXPECT_EQ(e4m3_to_float(0xFE), -448.0f);
  EXPECT_TRUE(std::isnan(e4m3_to_float(0x7F)));
  EXPECT_TRUE(std::isnan(e4m3_to_float(0xFF)));
}

TEST(Numeric, E4m3RoundsToTheNearest) {
  for (float x = 0; x < 470; x = x < 0.02f ? x + 0.000122f : x * 1.0037f) {
    const auto want = nearest(std::min(x, 448.0f), 0x7E, [](std::uint32_t bits) {
      return static_cast<double>(e4m3_to_float(static_cast<std::uint8_t>(bits)));
    });
    EXPECT_EQ(float_to_e4m3(x), want) << x;
    EXPECT_EQ(float_to_e4m3(-x), want | 0x80) << -x;
  }
  for (std::uint32_t bits = 0; bits < 256; ++bits) {
    const auto byte = static_cast<std::uint8_t>(bits);
    if ((bits & 0x7F) == 0x7F) continue;
    EXPECT_EQ(float_to_e4m3(e4m3_to_float(byte)), byte);
  }
  EXPECT_EQ(float_to_e4m3(225.0f), 0x76);  // 224
  EXPECT_EQ(float_to_e4m3(INFINITY), 0x7E);
  EXPECT_EQ(float_to_e4m3(std::nanf("")), 0x7F);
}

TEST(Numeric, E2m1RoundsToTheNearest) {
  const float magnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (std::uint8_t bits = 0; bits < 8; ++bits) {
    EXPECT_EQ(e2m1_to_float(bits), magnitudes[bits]);
    EXPECT_EQ(e2m1_to_float(bits | 8), -magnitudes[bits]);
    EXPECT_EQ(float_to_e2m1(magnitudes[bits]), bits);
  }
  for (float x = 0; x < 9; x += 0.0625f) {  // all ties are among them
    const auto want = nearest(x, 7, [](std::uint32_t bits) {
      return static_cast<double>(e2m1_to_float(static_cast<std::uint8_t>(bits)));
    });
    EXPECT_EQ(float_to_e2m1(x), want) << x;
    EXPECT_EQ(float_to_e2m1(-x), want | 8) << -x;
  }
  EXPECT_EQ(float_to_e2m1(INFINITY), 7);
}

TEST(Numeric, F16RoundTripsAndRounds) {
  for (std::uint32_t bits = 0; bits < 0x7C00; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    EXPECT_EQ(float_to_f16(f16_to_float(half)), half);
  }
  EXPECT_EQ(float_to_f16(1.0f), 0x3C00);
  EXPECT_EQ(float_to_f16(2049.0f), 0x6800);   // a tie: 2048
  EXPECT_EQ(float_to_f16(65519.0f), 0x7BFF);  // the largest
  EXPECT_EQ(float_to_f16(65520.0f), 0x7C00);
  EXPECT_EQ(float_to_f16(-5.9604645e-8f), 0x8001);
  EXPECT_TRUE(std::isnan(f16_to_float(0x7E00)));
  EXPECT_TRUE(std::isinf(f16_to_float(0x7C00)));
}

TEST(Numeric, E8m0) {
  EXPECT_EQ(e8m0_to_float(127), 1.0f);
  EXPECT_EQ(e8m0_to_float(0), std::ldexp(1.0f, -127));
  EXPECT_EQ(e8m0_to_float(254), std::ldexp(1.0f, 127));
  EXPECT_TRUE(std::isnan(e8m0_to_float(255)));
}

}  // namespace
}  // namespace m3
