#include "train/batch_mask.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "tensor/layout.h"

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

}  // namespace

BatchMask::BatchMask(std::span<const TrainingSequence> sequences) {
  if (std::ranges::all_of(sequences, [](const auto& s) { return s.bias.empty(); })) return;
  std::int64_t rows = 0, slots = 0;
  for (const TrainingSequence& s : sequences) {
    const std::int64_t tokens = std::ssize(s.ids);
    M3_CHECK(s.bias.empty() || std::ssize(s.bias) == tokens * tokens, "a mask of {} for {} tokens",
             s.bias.size(), tokens);
    rows += tokens;
    slots = std::max(slots, tokens);
  }
  buffer_ = lay_out(std::vector<Placement>{{&rows_.bias, DType::kF32, {rows, slots}},
                                           {&rows_.last_slots, DType::kI64, {rows}}});
  std::fill_n(rows_.bias.as<float>(), rows * slots, -std::numeric_limits<float>::infinity());
  std::int64_t row = 0;
  for (const TrainingSequence& s : sequences)
    for (std::int64_t t = 0; t < std::ssize(s.ids); ++t, ++row) {
      place_row(s, t, rows_.bias.row<float>(row));
      rows_.last_slots.as<std::int64_t>()[row] = std::ssize(s.ids) - 1;
    }
}

}  // namespace m3
