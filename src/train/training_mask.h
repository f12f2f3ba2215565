// Masks of training batches (spec: training §2.2), and the sequences that they come to.
//
// Most masks say what the model does anyway: padding at an end, or documents that see themselves
// alone. Of these nothing is left but sequences, which run as if nobody had packed or padded them
// (spec: training §13, S3): blocks begin with a document, and neither padding nor another document
// competes for a place among the chosen. What cannot be said so stays, as a bias of each pair.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "train/training_sequence.h"

namespace m3 {

// A mask of one sequence of T tokens: one of the two lists.
struct TrainingMask {
  std::vector<std::int32_t> documents;  // [T]: which one a token is of, 0: padding
  // [T, T], of row and token, as TrainingSequence has it, and which tokens are padding.
  std::vector<float> bias;
  std::vector<bool> padding;
};

// [T, T]: which tokens a row attends to. Who does not attend to itself is padding.
TrainingMask boolean_mask(const std::vector<bool>& attends, std::int64_t tokens);

// [T, T]: added to scores, -infinity hides; no NaN and no +infinity. Whom every row, itself
// included, is kept from is padding.
TrainingMask additive_mask(std::vector<float> bias, std::int64_t tokens);

// The sequences that compute what `sequence` does under the mask: without its padding, and apart
// where no token of one attends to one of the other; with a bias only where their tokens do not
// attend to all before them. Ordered by their first tokens. Positions, where the sequence has none,
// count from a new sequence's first token. Errors: nothing is left; a label on padding; a row that
// is none attends to padding.
Result<std::vector<TrainingSequence>> apply_mask(const TrainingSequence& sequence,
                                                 const TrainingMask& mask);

}  // namespace m3
