// The learning rate over a run (spec: training §8.2).
#pragma once

#include <cstdint>

namespace m3 {

enum class Decay : std::uint8_t { kConstant, kLinear, kCosine, kWarmupStableDecay };

struct Schedule {
  Decay decay = Decay::kCosine;
  double rate = 1e-5;        // the highest
  double least = 0;          // at the end
  std::int64_t warmup = 0;   // steps from a tenth of `rate` to all of it
  std::int64_t steps = 0;    // of the whole run
  std::int64_t falling = 0;  // kWarmupStableDecay: the last steps, in which it falls linearly

  // Of the step that follows `done` steps.
  double at(std::int64_t done) const;
};

}  // namespace m3
