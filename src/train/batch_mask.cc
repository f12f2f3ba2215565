#include "train/batch_mask.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "tensor/layout.h"
#include "train/packs.h"

namespace m3 {
namespace {

// The bias of one row of a sequence, to `out`, which hides all slots.
void place_row(const TrainingSequence& sequence, std::int64_t row, float* out) {
  const std::int64_t tokens = std::ssize(sequence.ids);
  if (sequence.bias.empty())
    std::fill_n(out, row + 1, 0.0f);
  else
    std::copy_n(sequence.bias.begin() + row * tokens, tokens, out);
}

// Nothing, where none of the sequences has a bias.
std::vector<Placement> placements(std::span<const TrainingSequence> sequences, RowMask& mask) {
  if (bias_bytes(sequences) == 0) return {};
  std::int64_t rows = 0, slots = 0;
  for (const TrainingSequence& s : sequences) {
    const std::int64_t tokens = std::ssize(s.ids);
    M3_CHECK(s.bias.empty() || std::ssize(s.bias) == tokens * tokens, "a mask of {} for {} tokens",
             s.bias.size(), tokens);
    rows += tokens;
    slots = std::max(slots, tokens);
  }
  return {{&mask.bias, DType::kF32, {rows, slots}}, {&mask.last_slots, DType::kI64, {rows}}};
}

}  // namespace

BatchMask::BatchMask(std::span<const TrainingSequence> sequences) {
  const std::vector<Placement> placed = placements(sequences, rows_);
  if (placed.empty()) return;
  buffer_ = lay_out(placed);
  std::fill_n(rows_.bias.as<float>(), rows_.bias.elements(),
              -std::numeric_limits<float>::infinity());
  std::int64_t row = 0;
  for (const TrainingSequence& s : sequences)
    for (std::int64_t t = 0; t < std::ssize(s.ids); ++t, ++row) {
      place_row(s, t, rows_.bias.row<float>(row));
      rows_.last_slots.as<std::int64_t>()[row] = std::ssize(s.ids) - 1;
    }
}

std::int64_t BatchMask::bytes_for(std::span<const TrainingSequence> sequences) {
  RowMask nowhere;
  return bytes_of(placements(sequences, nowhere));
}

std::int64_t bias_bytes(std::span<const TrainingSequence> sequences) {
  std::int64_t bytes = 0;
  for (const TrainingSequence& s : sequences) bytes += 4 * std::ssize(s.bias);
  return bytes;
}

std::int64_t mask_bytes(std::span<const TrainingSequence> step, std::int64_t rows) {
  std::int64_t most = 0;
  for (const auto& pack : packs_of(step, rows)) most = std::max(most, BatchMask::bytes_for(pack));
  return bias_bytes(step) + most;
}

}  // namespace m3
