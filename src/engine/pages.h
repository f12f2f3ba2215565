// Which pages of a cache are free.
#pragma once

#include <cstdint>
#include <vector>

namespace m3 {

// Pages that hold `tokens` tokens of one sequence.
constexpr std::int64_t pages_of(std::int64_t tokens, std::int64_t page_tokens) {
  return (tokens + page_tokens - 1) / page_tokens;
}

// Hands out page ids 0..pages-1, lowest first, so that a small load touches little memory.
class PageAllocator {
 public:
  explicit PageAllocator(std::int64_t pages);

  std::int64_t pages() const { return pages_; }
  std::int64_t free_pages() const { return static_cast<std::int64_t>(free_.size()); }

  // Appends `count` pages to `owner`, or does nothing and returns false if there are not so many.
  bool allocate(std::int64_t count, std::vector<std::int32_t>& owner);
  // Takes pages back from the end of `owner` until `keep` remain.
  void release(std::vector<std::int32_t>& owner, std::int64_t keep = 0);

 private:
  std::int64_t pages_;
  std::vector<std::int32_t> free_;  // a heap, lowest id on top
};

}  // namespace m3
