// "attention_mask" of a batch file: nested lists of the shapes that trainers know (spec: training
// §2.2).
//
//   [T]            of one sequence: true or 1 for what is real, false or 0 for padding; or 1, 2, …
//                  for the document that a token is of
//   [1, 1, T, T]   of row and token: true where the row attends to it; or numbers with a point,
//                  which are added to scores, "-inf" where it does not
//
// Beside the list of sequences, for all of them: [B, T], or [B, 1, T, T], or [1, 1, T, T] that each
// of them has. Additive entries of -1e9 or less, with which many programs hide, count as "-inf".
#pragma once

#include <vector>

#include "base/result.h"
#include "text/json.h"
#include "train/training_mask.h"

namespace m3 {

// Of one sequence of so many tokens. Errors: another shape, or another kind of entry.
Result<TrainingMask> read_mask(const Json& json, std::int64_t tokens);

// Of each sequence of a batch. Errors: as above; sequences of different lengths.
Result<std::vector<TrainingMask>> read_batch_mask(const Json& json,
                                                  const std::vector<std::int64_t>& lengths);

}  // namespace m3
