// Where the rows of a batch find the cached tokens of their sequences.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/check.h"
#include "ops/cache.h"

namespace m3::cpu {

// The sequence of one row as that row sees it: slots 0..slot, cut into blocks of one page each.
class SeenPages {
 public:
  SeenPages(const Rows& rows, std::int64_t row, std::int64_t page_tokens)
      : slot_(rows.slots.as<std::int64_t>()[row]),
        page_tokens_(page_tokens),
        pages_(rows.pages.row<std::int32_t>(rows.sequences.as<std::int32_t>()[row])) {
    M3_CHECK(count() <= rows.pages.dim(1), "slot {} lies in block {}, the page table has {}", slot_,
             count() - 1, rows.pages.dim(1));
  }

  std::int64_t slot() const { return slot_; }
  std::int64_t count() const { return slot_ / page_tokens_ + 1; }

  // Tokens of a block that the row sees. What the page holds beyond them may be anything.
  std::int64_t tokens(std::int64_t block) const {
    return std::min(page_tokens_, slot_ + 1 - block * page_tokens_);
  }

  std::int64_t page(std::int64_t block) const {
    M3_CHECK(block >= 0 && block < count(), "block {} is not visible from slot {}", block, slot_);
    M3_CHECK(pages_[block] >= 0, "block {} of a row at slot {} has no page", block, slot_);
    return pages_[block];
  }

 private:
  std::int64_t slot_;
  std::int64_t page_tokens_;
  const std::int32_t* pages_;
};

// Cuts the rows of a batch into runs of at most `rows_max` of one sequence.
inline void cut_runs(const Rows& rows, std::int64_t rows_max, std::vector<RowRun>& runs) {
  const std::int32_t* sequence = rows.sequences.as<std::int32_t>();
  runs.clear();
  for (std::int64_t row = 0; row < rows.sequences.dim(0); ++row) {
    const bool joins = !runs.empty() && runs.back().rows < rows_max &&
                       sequence[row] == sequence[runs.back().first];
    if (joins) {
      ++runs.back().rows;
    } else {
      runs.push_back({row, 1});
    }
  }
}

}  // namespace m3::cpu
