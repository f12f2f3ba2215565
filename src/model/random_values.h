// Weights from a seed: every value is a function of seed, tensor name and index, so that a random
// checkpoint can be written again anywhere, bit for bit.
#pragma once

#include <cstdint>
#include <string_view>

#include "model/weight_table.h"

namespace m3 {

// FNV-1a-64(name) xor (seed * 0x9E3779B97F4A7C15), modulo 2^64.
std::uint64_t random_key(std::uint64_t seed, std::string_view name);

// out[j] = mean + (std * sqrt(3)) * u(first + j) for j in [0, count), in double, then to float32.
// u(i) in [-1, 1) is 24 bits of SplitMix64's output for the state key + (i + 1) *
// 0x9E3779B97F4A7C15.
void fill_random(std::uint64_t key, std::int64_t first, std::int64_t count, Init init, float* out);

// Of the standard normal distribution, by Box and Muller; an element that is drawn again counts its
// attempts.
double normal_at(std::uint64_t key, std::uint64_t element, std::uint64_t attempt);

}  // namespace m3
