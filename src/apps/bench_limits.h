// The machine's limits, kept up to date around every sample of `m3 bench`.
#pragma once

#include <algorithm>

#include "backend/cpu/probe.h"

namespace m3 {

class Limits {
 public:
  explicit Limits(MachineProbe& probe) : probe_(probe), best_(probe.measure()) {}

  // Measures once more; true when the machine is (nearly) as fast as ever.
  bool calm_now() {
    // Samples beside which the machine was slower than this share of its best are not trusted.
    constexpr double kCalm = 0.9;
    const MachineLimits now = probe_.measure_quickly();
    best_.read_gb_per_s = std::max(best_.read_gb_per_s, now.read_gb_per_s);
    best_.matrix_tflop_per_s = std::max(best_.matrix_tflop_per_s, now.matrix_tflop_per_s);
    return now.read_gb_per_s >= kCalm * best_.read_gb_per_s &&
           now.matrix_tflop_per_s >= kCalm * best_.matrix_tflop_per_s;
  }
  const MachineLimits& best() const { return best_; }

 private:
  MachineProbe& probe_;
  MachineLimits best_;
};

}  // namespace m3
