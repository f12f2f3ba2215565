#include "train/schedule.h"

#include <cmath>
#include <numbers>

namespace m3 {
namespace {

constexpr double kWarmupBegin = 0.1;  // of the rate

double share(std::int64_t part, std::int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

double Schedule::at(std::int64_t done) const {
  if (done < warmup) return rate * (kWarmupBegin + (1 - kWarmupBegin) * share(done, warmup));
  if (decay == Decay::kConstant) return rate;
  if (done >= steps) return least;
  const double height = rate - least;
  switch (decay) {
    case Decay::kConstant:
      break;
    case Decay::kLinear:
      return least + height * (1 - share(done - warmup, steps - warmup));
    case Decay::kCosine:
      return least +
             height * (1 + std::cos(std::numbers::pi * share(done - warmup, steps - warmup))) / 2;
    case Decay::kWarmupStableDecay:
      if (done <= steps - falling) return rate;
      return least + height * share(steps - done, falling);
  }
  return rate;
}

}  // namespace m3
