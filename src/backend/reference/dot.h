// The one inner product of this backend.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace m3::reference {

// Σ a[i] * b[i] in double, where every product of two float32 is exact. Eight running sums instead
// of one: that is the only concession to speed, and lets the compiler use vector instructions.
inline double dot(const float* a, const float* b, std::int64_t count) {
  constexpr std::int64_t kLanes = 8;
  std::array<double, kLanes> sums{};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
  double sum = 0;
  for (; i < count; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  for (double lane : sums) sum += lane;
  return sum;
}

}  // namespace m3::reference
