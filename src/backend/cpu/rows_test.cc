// The loops along one row: accuracy, tails, and numbers that are not ordinary.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "backend/cpu/kernels_testing.h"
#include "tensor/numeric.h"

namespace m3::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

class RowKernels : public IsaTest {};
M3_TEST_EVERY_ISA(RowKernels);

// Distance in units of the last place of the exact result.
double ulps(float actual, double exact) {
  int exponent = 0;
  std::frexp(exact, &exponent);
  return std::abs(actual - exact) / std::ldexp(1.0, exponent - 24);
}

TEST_P(RowKernels, ExpIsWithinTwoUnitsInTheLastPlace) {
  double worst = 0;
  for (float start = -87.3f; start < 88.3f; start += 0.37f) {
    std::vector<float> x(101), y(101);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = start + static_cast<float>(i) * 0.0037f;
    kernels_.exp(x.data(), std::ssize(x), y.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (x[i] > 88.37f) continue;
      worst = std::max(worst, ulps(y[i], std::exp(static_cast<double>(x[i]))));
    }
  }
  EXPECT_LT(worst, 2.0);
  EXPECT_GT(worst, 0.0);  // zero would mean that nothing was compared
}

TEST_P(RowKernels, ExpOfSpecialNumbers) {
  const std::vector<float> x{0, -0.0f, -kInfinity, -1000, -104, 1, kNan, -kNan};
  std::vector<float> y(x.size());
  kernels_.exp(x.data(), std::ssize(x), y.data());
  EXPECT_EQ(y[0], 1);
  EXPECT_EQ(y[1], 1);
  EXPECT_EQ(y[2], 0);
  EXPECT_EQ(y[3], 0);
  EXPECT_EQ(y[4], 0);
  EXPECT_NEAR(y[5], 2.7182818f, 3e-7f);
  EXPECT_TRUE(std::isnan(y[6]) && std::isnan(y[7]));
  const float large[] = {200, kInfinity};
  kernels_.exp(large, 2, y.data());
  EXPECT_GT(y[0], 2e38f);
  EXPECT_GT(y[1], 2e38f);
}

TEST_P(RowKernels, RoundsToBF16AsTheConversionDoes) {
  std::vector<float> x{0, -0.0f, 1, kInfinity, -kInfinity, kNan, 3.4e38f, 1e-40f, -1e-45f};
  for (std::uint32_t i = 0; i < 4096; ++i)
    x.push_back(std::bit_cast<float>(i * 1048573u + (i % 3 == 0 ? 0x8000u : 0u)));
  for (std::size_t n : {x.size(), std::size_t{1}, std::size_t{17}}) {
    std::vector<std::uint16_t> y(n);
    kernels_.to_bf16(x.data(), std::ssize(y), y.data());
    for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(y[i], to_bf16(x[i]).bits) << x[i];
  }
}

TEST_P(RowKernels, LargestSeesEveryElementAndEveryNan) {
  for (std::int64_t n : {1, 3, 16, 17, 40, 83, 128}) {
    for (std::int64_t at = 0; at < n; ++at) {
      std::vector<float> x(static_cast<std::size_t>(n), -2.0f);
      x[static_cast<std::size_t>(at)] = -1;
      EXPECT_EQ(kernels_.largest(x.data(), n), -1) << at << " of " << n;
      x[static_cast<std::size_t>(at)] = kNan;
      EXPECT_TRUE(std::isnan(kernels_.largest(x.data(), n))) << at << " of " << n;
    }
  }
  const std::vector<float> lowest(20, -kInfinity);
  EXPECT_EQ(kernels_.largest(lowest.data(), 20), -kInfinity);
}

TEST_P(RowKernels, LogSumExp) {
  for (std::int64_t n : {1, 5, 16, 37}) {
    std::vector<float> x;
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      x.push_back(90 + 0.25f * static_cast<float>(i % 11));
      sum += std::exp(static_cast<double>(x.back()) - 90);
    }
    EXPECT_NEAR(kernels_.log_sum_exp(x.data(), n), 90 + std::log(sum), 2e-5);
  }
  const float none[] = {-kInfinity, -kInfinity};
  EXPECT_EQ(kernels_.log_sum_exp(none, 2), -kInfinity);
}

// spec: text-model §9.2.
TEST_P(RowKernels, SwiGlu) {
  const std::vector<float> gate{1, 1, -1, 10, 2, 2, -10, -0.5f, 1.5f, kNan, 1};
  const std::vector<float> up{0, 1, 2, 0, 10, -10, 1, -1, 0.30078125f, 1, kNan};
  const std::vector<float> expected{0.84579577f,    1.6915915f, -0.46261270f,
                                    6.9999531f,     15.485269f, -11.613952f,
                                    -8.1159226e-7f, 0,          1.8102481f};
  std::vector<float> out(gate.size());
  kernels_.swiglu(gate.data(), up.data(), {1.702f, 7, 1}, std::ssize(out), out.data());
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(out[i], expected[i], 1e-6f * std::max(1e-3f, std::abs(expected[i]))) << i;
  EXPECT_TRUE(std::isnan(out[9]) && std::isnan(out[10]));
}

}  // namespace
}  // namespace m3::cpu
