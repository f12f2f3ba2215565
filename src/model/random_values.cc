#include "model/random_values.h"

#include <cmath>
#include <numbers>

#include "base/random.h"

namespace m3 {

std::uint64_t random_key(std::uint64_t seed, std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const char byte : name) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001B3u;
  return hash ^ (seed * kGolden);
}

void fill_random(std::uint64_t key, std::int64_t first, std::int64_t count, Init init, float* out) {
  const double scale = init.std * std::sqrt(3.0);
  const std::uint64_t start = key + (static_cast<std::uint64_t>(first) + 1) * kGolden;
  for (std::int64_t j = 0; j < count; ++j) {
    const std::uint64_t z = mix64(start + static_cast<std::uint64_t>(j) * kGolden);
    // 24 bits fit an int: that conversion to double has an instruction, the one of 64 bits does not
    // on every machine.
    const double u = static_cast<int>(z >> 40) * 0x1p-23 - 1.0;
    out[j] = static_cast<float>(init.mean + scale * u);
  }
}

double normal_at(std::uint64_t key, std::uint64_t element, std::uint64_t attempt) {
  const double radius = std::sqrt(-2 * std::log(uniform_at(key, element, 2 * attempt)));
  return radius * std::cos(2 * std::numbers::pi * uniform_at(key, element, 2 * attempt + 1));
}

}  // namespace m3
