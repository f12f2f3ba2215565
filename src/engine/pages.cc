#include "engine/pages.h"

#include <algorithm>
#include <functional>

#include "base/check.h"

namespace m3 {

PageAllocator::PageAllocator(std::int64_t pages) : pages_(pages) {
  for (std::int64_t page = 0; page < pages; ++page)
    free_.push_back(static_cast<std::int32_t>(page));
  std::make_heap(free_.begin(), free_.end(), std::greater<>());
}

bool PageAllocator::allocate(std::int64_t count, std::vector<std::int32_t>& owner) {
  if (count > free_pages()) return false;
  for (std::int64_t i = 0; i < count; ++i) {
    std::pop_heap(free_.begin(), free_.end(), std::greater<>());
    owner.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void PageAllocator::release(std::vector<std::int32_t>& owner, std::int64_t keep) {
  M3_CHECK(keep >= 0, "keep is {}", keep);
  while (static_cast<std::int64_t>(owner.size()) > keep) {
    free_.push_back(owner.back());
    std::push_heap(free_.begin(), free_.end(), std::greater<>());
    owner.pop_back();
  }
}

}  // namespace m3
