#include "train/training_sequence.h"

namespace m3 {

std::int64_t scored_labels(std::span<const TrainingSequence> sequences) {
  std::int64_t scored = 0;
  for (const TrainingSequence& sequence : sequences)
    for (const std::int32_t label : sequence.labels) scored += label != kNotScored;
  return scored;
}

std::int64_t rows_of(std::span<const TrainingSequence> sequences) {
  std::int64_t rows = 0;
  for (const TrainingSequence& sequence : sequences) rows += std::ssize(sequence.ids);
  return rows;
}

}  // namespace m3
