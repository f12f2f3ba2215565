#include "train/packs.h"

#include <algorithm>
#include <numeric>

namespace m3 {

std::vector<std::span<const TrainingSequence>> packs_of(std::span<const TrainingSequence> sequences,
                                                        std::int64_t rows) {
  std::vector<std::span<const TrainingSequence>> packs;
  while (!sequences.empty()) {
    std::size_t count = 1;
    std::int64_t taken = std::ssize(sequences[0].ids);
    while (count < sequences.size() && taken + std::ssize(sequences[count].ids) <= rows)
      taken += std::ssize(sequences[count++].ids);
    packs.push_back(sequences.first(count));
    sequences = sequences.subspan(count);
  }
  return packs;
}

std::vector<std::vector<std::size_t>> fill_packs(std::span<const std::int64_t> lengths,
                                                 std::int64_t rows) {
  std::vector<std::size_t> longest_first(lengths.size());
  std::iota(longest_first.begin(), longest_first.end(), 0);
  std::ranges::stable_sort(longest_first, std::greater(),
                           [&](std::size_t i) { return lengths[i]; });
  std::vector<std::vector<std::size_t>> packs;
  std::vector<std::int64_t> room;  // of each pack
  for (const std::size_t i : longest_first) {
    const auto fits = std::ranges::find_if(room, [&](std::int64_t r) { return r >= lengths[i]; });
    const auto pack = static_cast<std::size_t>(fits - room.begin());
    if (fits == room.end()) {
      packs.emplace_back();
      room.push_back(rows);
    }
    packs[pack].push_back(i);
    room[pack] -= lengths[i];
  }
  return packs;
}

}  // namespace m3
