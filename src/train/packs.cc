#include "train/packs.h"

namespace m3 {

std::int64_t rows_of(std::span<const TrainingSequence> sequences) {
  std::int64_t rows = 0;
  for (const TrainingSequence& sequence : sequences) rows += std::ssize(sequence.ids);
  return rows;
}

std::vector<std::span<const TrainingSequence>> packs_of(std::span<const TrainingSequence> sequences,
                                                        std::int64_t rows) {
  std::vector<std::span<const TrainingSequence>> packs;
  while (!sequences.empty()) {
    std::size_t count = 1;
    while (count < sequences.size() && rows_of(sequences.first(count + 1)) <= rows) ++count;
    packs.push_back(sequences.first(count));
    sequences = sequences.subspan(count);
  }
  return packs;
}

}  // namespace m3
