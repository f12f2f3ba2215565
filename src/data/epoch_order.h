// In which order samples are seen.
#pragma once

#include <cstdint>
#include <vector>

namespace m3 {

// The numbers from 0 to count - 1, shuffled: the same on every machine for the same seed and epoch,
// another order for each epoch.
std::vector<std::int64_t> epoch_order(std::int64_t count, std::uint64_t seed, std::uint64_t epoch);

}  // namespace m3
