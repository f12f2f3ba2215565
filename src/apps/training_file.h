// Token sequences with labels, as `m3 gradients` and `m3 train` take them.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "train/differentiator.h"

namespace m3 {

// A JSON file {"sequences": [{"ids", "labels"}]}. Errors: another form, no sequence, lists of
// different lengths, ids or labels outside the vocabulary, more tokens than positions; each says
// which sequence.
Result<std::vector<TrainingSequence>> read_training_batch(const std::string& path,
                                                          const Config& config);

// A JSON file {"steps": [{"sequences": ...}]}: a batch for each step. Errors: as above, and no
// step.
Result<std::vector<std::vector<TrainingSequence>>> read_training_batches(const std::string& path,
                                                                         const Config& config);

}  // namespace m3
