#include "engine/prefill_pace.h"

#include <algorithm>

namespace m3 {
namespace {

// Smoothed over about eight steps; the first is taken as it is.
void smooth(double& value, double sample) {
  value = value == 0 ? sample : value + (sample - value) / 8;
}

}  // namespace

void PrefillPace::saw_step(std::int64_t prefill_rows, double seconds) {
  if (prefill_rows == 0) return smooth(decode_seconds_, seconds);
  const double extra = std::max(seconds - decode_seconds_, seconds / 8);
  smooth(row_seconds_, extra / static_cast<double>(prefill_rows));
}

std::int64_t PrefillPace::rows() const {
  const double rows = row_seconds_ == 0 ? 0 : seconds_ / row_seconds_;
  return std::clamp(static_cast<std::int64_t>(std::min(rows, 1e9)), rows_min_, rows_max_);
}

}  // namespace m3
