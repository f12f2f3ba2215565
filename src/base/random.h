// Random numbers as pure functions of what they are for.
#pragma once

#include <cstdint>

namespace m3 {

inline constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ull;

// SplitMix64's output function: a bijection that spreads every input bit over all output bits.
constexpr std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// Uniform in (0, 1), never either end, from three coordinates.
constexpr double uniform_at(std::uint64_t seed, std::uint64_t i, std::uint64_t j) {
  const std::uint64_t state = mix64(mix64(seed + kGolden) ^ (i * kGolden + kGolden));
  const std::uint64_t bits = mix64(state + (j + 1) * kGolden);
  return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;
}

}  // namespace m3
