// The machine's limits, measured again beside every sample of `m3 bench`: other tenants come and
// go.
//
// Two truths about a sample: what the machine gave around it, and the best that it gave in the
// whole run. Shares are of the first, the median over the samples that count. A share of the best
// mixes in what neighbours took; but a limit that was itself disturbed, while the sample was not,
// flatters. So samples count only while the limits around them are near the best, which keeps the
// two within a tenth of each other, and reports carry both.
#pragma once

#include <vector>

#include "backend/cpu/probe.h"
#include "ops/stage.h"

namespace m3 {

class Limits {
 public:
  // `probe` outlives this.
  explicit Limits(MachineProbe& probe) : probe_(probe), best_(probe.measure()) {}

  // Measures once more.
  MachineLimits measure();
  // Whether these are (nearly) as good as the best.
  bool calm(const MachineLimits& limits) const;
  const MachineLimits& best() const { return best_; }

 private:
  MachineProbe& probe_;
  MachineLimits best_;
};

// Of each limit the median. At least one.
MachineLimits median_of(std::vector<MachineLimits> limits);

// What a part of a step cannot be faster than.
enum class Bound : std::uint8_t { kRead, kMatrix, kInt8 };
inline constexpr std::string_view kBoundNames[] = {"read", "matrix", "int8"};

struct Roof {
  double seconds = 0;  // the least that bytes and operations take
  Bound bound = Bound::kRead;
};

// `int8`: the multiplications run on integer units.
Roof roof_of(std::int64_t bytes, std::int64_t flops, bool int8, const MachineLimits& limits);

}  // namespace m3
