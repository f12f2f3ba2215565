// Sequences that are computed together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/training_sequence.h"

namespace m3 {

// Consecutive sequences: as many together as `rows` hold, at least one.
std::vector<std::span<const TrainingSequence>> packs_of(std::span<const TrainingSequence> sequences,
                                                        std::int64_t rows);

// Which sequences of these lengths to compute together so that few packs of `rows` do: first fit,
// the longest first. Put one behind the other they are an order that packs_of() cuts just so.
std::vector<std::vector<std::size_t>> fill_packs(std::span<const std::int64_t> lengths,
                                                 std::int64_t rows);

}  // namespace m3
