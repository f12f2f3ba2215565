// How many rows of prompts a step may read while others wait for their next token.
#pragma once

#include <cstdint>

namespace m3 {

// A step of decoding takes the time of its weights; rows of prompts come on top. What a row adds is
// measured, and as many are allowed as `seconds` hold. Only the speed depends on it.
class PrefillPace {
 public:
  // `rows_min`: even if they take longer, or nobody would ever be answered.
  PrefillPace(double seconds, std::int64_t rows_min, std::int64_t rows_max)
      : seconds_(seconds), rows_min_(rows_min), rows_max_(rows_max) {}

  // A step with so many rows of prompts (0: it only decoded) took so long.
  void saw_step(std::int64_t prefill_rows, double seconds);
  std::int64_t rows() const;

 private:
  double seconds_;
  std::int64_t rows_min_, rows_max_;
  double decode_seconds_ = 0;  // of a step without prompts; 0: not seen yet
  double row_seconds_ = 0;     // that a row adds; 0: not seen yet
};

}  // namespace m3
