#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace m3 {
namespace {

// The (fractional) frequency index that turns `rotations` times over the original context.
double correction_index(double rotations, const Config& config, const Yarn& yarn) {
  const double positions = static_cast<double>(yarn.original_positions);
  return static_cast<double>(config.rotary_dim) *
         std::log(positions / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(config.rope_theta));
}

struct Ramp {
  float low, high;
  // 0 below `low` (frequency kept), 1 above `high` (frequency divided by the factor).
  float at(std::int64_t i) const {
    return std::clamp((static_cast<float>(i) - low) / (high - low), 0.0f, 1.0f);
  }
};

Ramp yarn_ramp(const Config& config, const Yarn& yarn) {
  double low = correction_index(yarn.beta_fast, config, yarn);
  double high = correction_index(yarn.beta_slow, config, yarn);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(config.rotary_dim - 1));
  if (low == high) high += 0.001;  // a step instead of a division by zero
  return {static_cast<float>(low), static_cast<float>(high)};
}

}  // namespace

void compute_inv_freq(const Config& config, const Tensor& inv_freq) {
  const std::int64_t count = config.rotary_dim / 2;
  M3_CHECK(inv_freq.elements() == count, "{} for {} frequencies", inv_freq.describe(), count);
  float* out = inv_freq.as<float>();
  for (std::int64_t i = 0; i < count; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.rotary_dim);
    const auto period = static_cast<float>(std::pow(config.rope_theta, exponent));
    out[i] = 1.0f / period;
    if (!config.yarn) continue;
    const float stretched = 1.0f / (static_cast<float>(config.yarn->factor) * period);
    const float kept = 1.0f - yarn_ramp(config, *config.yarn).at(i);
    out[i] = stretched * (1.0f - kept) + out[i] * kept;
  }
}

float rope_scale(const Config& config) {
  return config.yarn ? static_cast<float>(config.yarn->attention_factor) : 1.0f;
}

}  // namespace m3
