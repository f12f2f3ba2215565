// Sequences that are computed together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/differentiator.h"

namespace m3 {

std::int64_t rows_of(std::span<const TrainingSequence> sequences);

// Consecutive sequences: as many together as `rows` hold, at least one.
std::vector<std::span<const TrainingSequence>> packs_of(std::span<const TrainingSequence> sequences,
                                                        std::int64_t rows);

}  // namespace m3
