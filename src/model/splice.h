// Where the embeddings of pictures and clips go in a sequence (spec: vision §5.3, §5.4).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "model/batch.h"
#include "model/config.h"
#include "tensor/tensor.h"

namespace m3 {

// One picture or clip behind the vision tower.
struct EncodedMedia {
  Buffer memory;
  Tensor features;         // [tokens, hidden] F32, in `memory`
  std::int32_t token = 0;  // the placeholder id that it replaces
  std::uint64_t hash = 0;  // of what was encoded: equal media give equal features
};

class SplicePlan {
 public:
  SplicePlan() = default;

  // The i-th placeholder of each kind takes the i-th row of the media of that kind, in order.
  // Errors: more or fewer placeholders than rows, with both counts.
  static Result<SplicePlan> create(std::span<const std::int32_t> ids,
                                   std::vector<std::shared_ptr<const EncodedMedia>> media,
                                   const Config& config);

  // Adds what falls on the sequence's slots [slot, slot + rows), whose first is `first_row` of the
  // batch. The plan must outlive the step.
  void add_to(Batch& batch, std::int64_t slot, std::int64_t rows, std::int64_t first_row) const;

  // Appends numbers that tell which media the slots [slot, slot + rows) hold, and what of them: the
  // same for the same, and none where there are none.
  void add_marks(std::int64_t slot, std::int64_t rows, std::vector<std::int64_t>& marks) const;

 private:
  // Consecutive slots that take consecutive rows of one item.
  struct Run {
    std::int64_t slot;
    Tensor features;
    std::uint64_t hash;     // of the item
    std::int64_t item_row;  // of the first
  };

  std::vector<std::shared_ptr<const EncodedMedia>> media_;
  std::vector<Run> runs_;  // ascending
};

}  // namespace m3
