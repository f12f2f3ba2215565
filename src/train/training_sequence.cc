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

std::vector<std::int64_t> lengths_of(std::span<const TrainingSequence> sequences) {
  std::vector<std::int64_t> lengths;
  for (const TrainingSequence& sequence : sequences) lengths.push_back(std::ssize(sequence.ids));
  return lengths;
}

}  // namespace m3
