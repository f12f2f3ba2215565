#include "apps/bench_limits.h"

#include <algorithm>

#include "base/check.h"

namespace m3 {
namespace {

// Samples beside which the machine was slower than this share of its best are not trusted.
constexpr double kCalm = 0.9;

constexpr double MachineLimits::*kRates[] = {&MachineLimits::read_gb_per_s,
                                             &MachineLimits::matrix_tflop_per_s,
                                             &MachineLimits::int8_top_per_s};

}  // namespace

MachineLimits Limits::measure() {
  const MachineLimits now = probe_.measure_quickly();
  for (const auto rate : kRates) best_.*rate = std::max(best_.*rate, now.*rate);
  return now;
}

bool Limits::calm(const MachineLimits& limits) const {
  return std::all_of(std::begin(kRates), std::end(kRates),
                     [&](auto rate) { return limits.*rate >= kCalm * best_.*rate; });
}

MachineLimits median_of(std::vector<MachineLimits> limits) {
  M3_CHECK(!limits.empty(), "the median of nothing");
  MachineLimits median = limits.front();
  for (const auto rate : kRates) {
    const auto middle = limits.begin() + std::ssize(limits) / 2;
    std::nth_element(limits.begin(), middle, limits.end(),
                     [&](const auto& a, const auto& b) { return a.*rate < b.*rate; });
    median.*rate = *middle.*rate;
  }
  return median;
}

Roof roof_of(std::int64_t bytes, std::int64_t flops, bool int8, const MachineLimits& limits) {
  const double peak = int8 ? limits.int8_top_per_s : limits.matrix_tflop_per_s;
  const double reading = static_cast<double>(bytes) / limits.read_gb_per_s / 1e9;
  const double multiplying = static_cast<double>(flops) / peak / 1e12;
  if (reading >= multiplying) return {reading, Bound::kRead};
  return {multiplying, int8 ? Bound::kInt8 : Bound::kMatrix};
}

}  // namespace m3
