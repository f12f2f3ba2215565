#include "model/rope.h"

#include <gtest/gtest.h>

#include <vector>

namespace m3 {
namespace {

Config released() {
  Config config;
  config.rope_theta = 5e6;
  config.rotary_dim = 64;
  return config;
}

std::vector<float> frequencies(const Config& config) {
  std::vector<float> f(static_cast<std::size_t>(config.rotary_dim / 2));
  compute_inv_freq(config, Tensor(f.data(), DType::kF32, {config.rotary_dim / 2}));
  return f;
}

// spec: text-model §3.4.1 and §3.4.3 give these digits.
TEST(Rope, PlainFrequencies) {
  const auto f = frequencies(released());
  EXPECT_EQ(f[0], 1.0f);
  EXPECT_NEAR(f[1], 0.61752876, 1e-7);
  EXPECT_NEAR(f[16], 4.4721360e-4, 1e-10);
  EXPECT_NEAR(f[31], 3.2387156e-7, 1e-13);
}

TEST(Rope, YarnKeepsFastAndStretchesSlowFrequencies) {
  Config config = released();
  const auto plain = frequencies(config);
  config.yarn = Yarn{.factor = 2, .original_positions = 524288};
  const auto f = frequencies(config);
  for (std::size_t i = 0; i <= 16; ++i) EXPECT_EQ(f[i], plain[i]) << i;
  for (std::size_t i = 24; i < 32; ++i) EXPECT_NEAR(f[i], plain[i] / 2, plain[i] * 1e-6) << i;
  EXPECT_NEAR(f[20], 4.8775868e-5, 1e-11);
  config.yarn->truncate = false;
  EXPECT_NEAR(frequencies(config)[20], 4.8386107e-5, 1e-11);
}

}  // namespace
}  // namespace m3
