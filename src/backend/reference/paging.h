// Where a row finds the cached tokens of its sequence.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/check.h"
#include "ops/cache.h"

namespace m3::reference {

// The sequence of one row as that row sees it: slots 0..slot, cut into blocks of one page each.
class VisibleBlocks {
 public:
  VisibleBlocks(const Rows& rows, std::int64_t row, std::int64_t page_tokens)
      : slot_(rows.slots.as<std::int64_t>()[row]),
        page_tokens_(page_tokens),
        pages_max_(rows.pages.dim(1)),
        pages_(rows.pages.row<std::int32_t>(rows.sequences.as<std::int32_t>()[row])) {
    M3_CHECK(count() <= pages_max_, "slot {} lies in block {}, the page table has {}", slot_,
             count() - 1, pages_max_);
  }

  std::int64_t slot() const { return slot_; }
  std::int64_t count() const { return slot_ / page_tokens_ + 1; }

  std::int64_t first_slot(std::int64_t block) const { return block * page_tokens_; }
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
  std::int64_t pages_max_;
  const std::int32_t* pages_;
};

// Rows [first row, one past the last) of each sequence.
inline std::vector<std::pair<std::int64_t, std::int64_t>> whole_sequences(const Rows& rows) {
  std::vector<std::pair<std::int64_t, std::int64_t>> sequences;
  for (std::int64_t row = 0; row < rows.slots.dim(0); ++row) {
    const std::int64_t slot = rows.slots.as<std::int64_t>()[row];
    if (slot == 0) sequences.emplace_back(row, row);
    M3_CHECK(!sequences.empty() && slot == row - sequences.back().first,
             "row {} is at slot {}, its sequence is not whole", row, slot);
    sequences.back().second = row + 1;
  }
  return sequences;
}

// A token's row of a page as float32: where it lies, or read into `scratch`.
inline const float* cached_row(const PagePart& page, std::int64_t token, float* scratch) {
  if (page.dtype == DType::kF32 && page.order == PageOrder::kRows)
    return reinterpret_cast<const float*>(page.data) + page.place(token, 0);
  for (std::int64_t i = 0; i < page.dim; ++i) scratch[i] = page.get(token, i);
  return scratch;
}

// The one rounding of a key or value: to the type in which the cache keeps it.
inline void store_cached_row(const float* x, const PagePart& page, std::int64_t token) {
  for (std::int64_t i = 0; i < page.dim; ++i) page.set(token, i, x[i]);
}

}  // namespace m3::reference
