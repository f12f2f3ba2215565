// Token sequences with labels, as `m3 gradients` and `m3 train` take them.
//
// A sequence is {"ids", "labels"} and may have "position_ids", one for each token, which RoPE alone
// reads, and an "attention_mask" (apps/mask_reader.h). What a mask separates comes back as
// sequences of their own.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "train/training_sequence.h"

namespace m3 {

// A JSON file {"sequences": [...]}, perhaps with the "attention_mask" of all. Errors: another form,
// no sequence, lists of different lengths, ids or labels outside the vocabulary, more tokens than
// positions, positions below 0, masks of other shapes, labels on padding; each says which sequence.
Result<std::vector<TrainingSequence>> read_training_batch(const std::string& path,
                                                          const Config& config);

// A JSON file {"steps": [{"sequences": ...}]}: a batch for each step. Errors: as above, no step,
// and a step without a label that is scored, from which nothing could be learnt.
Result<std::vector<std::vector<TrainingSequence>>> read_training_batches(const std::string& path,
                                                                         const Config& config);

}  // namespace m3
