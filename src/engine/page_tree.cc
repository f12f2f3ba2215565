#include "engine/page_tree.h"

#include <algorithm>
#include <functional>

#include "base/check.h"
#include "base/random.h"

namespace m3 {
namespace {

std::uint64_t hash_of(std::int32_t parent, const PageText& text) {
  return mix64(text.hash() + static_cast<std::uint64_t>(parent) * kGolden);
}

}  // namespace

PageText::PageText(std::vector<std::int64_t> items) : items_(std::move(items)) {
  for (const std::int64_t item : items_)
    hash_ = mix64((hash_ ^ static_cast<std::uint64_t>(item)) + kGolden);
}

PageTree::PageTree(std::int64_t pages) : nodes_(static_cast<std::size_t>(pages)) {
  for (std::int64_t page = 0; page < pages; ++page)
    free_.push_back(static_cast<std::int32_t>(page));
  std::make_heap(free_.begin(), free_.end(), std::greater<>());
}

std::int32_t PageTree::child(std::int32_t parent, const PageText& text, std::uint64_t hash) const {
  const auto [begin, end] = by_hash_.equal_range(hash);
  const auto found = std::find_if(begin, end, [&](const auto& entry) {
    return node(entry.second).parent == parent && node(entry.second).text == text;
  });
  return found == end ? kRoot : found->second;
}

PageTree::Match PageTree::find(std::span<const PageText> pages) const {
  Match match;
  std::int32_t parent = kRoot;
  for (const PageText& text : pages) {
    parent = child(parent, text, hash_of(parent, text));
    if (parent == kRoot) break;
    ++match.pages;
    match.idle += node(parent).holders == 0;
  }
  return match;
}

void PageTree::take(std::span<const PageText> pages, PageLease& lease) {
  M3_CHECK(lease.pages.empty(), "a lease of {} pages takes others", lease.pages.size());
  std::int32_t parent = kRoot;
  for (const PageText& text : pages) {
    parent = child(parent, text, hash_of(parent, text));
    if (parent == kRoot) return;
    hold(parent);
    lease.pages.push_back(parent);
    ++lease.shared;
  }
}

void PageTree::hold(std::int32_t page) {
  Node& n = node(page);
  if (n.holders++ > 0) return;
  --idle_;
  if (n.children == 0) leaves_.erase({n.used, page});
}

void PageTree::let_go(std::int32_t page) {
  Node& n = node(page);
  M3_CHECK(n.holders > 0, "page {} is given back by nobody who holds it", page);
  if (--n.holders > 0) return;
  ++idle_;
  n.used = clock_;
  if (n.children == 0) leaves_.insert({n.used, page});
}

void PageTree::give_back(std::int32_t page) {
  free_.push_back(page);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

// Takes a leaf that nobody holds out of the tree.
void PageTree::drop(std::int32_t page) {
  Node& n = node(page);
  leaves_.erase({n.used, page});
  const auto [begin, end] = by_hash_.equal_range(n.hash);
  by_hash_.erase(std::find_if(begin, end, [&](const auto& entry) { return entry.second == page; }));
  if (n.parent != kRoot) {
    Node& above = node(n.parent);
    if (--above.children == 0 && above.holders == 0) leaves_.insert({above.used, n.parent});
  }
  n = {};
  --idle_;
  --kept_;
  give_back(page);
}

bool PageTree::grow(PageLease& lease, std::int64_t count) {
  if (count > available()) return false;
  while (free_pages() < count) drop(leaves_.begin()->second);
  for (std::int64_t i = 0; i < count; ++i) {
    std::pop_heap(free_.begin(), free_.end(), std::greater<>());
    lease.pages.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void PageTree::store(PageLease& lease, PageText text) {
  const auto place = static_cast<std::size_t>(lease.shared);
  M3_CHECK(place < lease.pages.size(), "all {} pages of a lease are in the tree", place);
  const std::int32_t parent = place == 0 ? kRoot : lease.pages[place - 1];
  const std::int32_t own = lease.pages[place];
  const std::uint64_t hash = hash_of(parent, text);
  const std::int32_t same = child(parent, text, hash);
  ++lease.shared;
  if (same != kRoot) {
    hold(same);
    lease.pages[place] = same;
    give_back(own);
    return;
  }
  node(own) = {.parent = parent, .holders = 1, .hash = hash, .text = std::move(text)};
  by_hash_.insert({hash, own});
  if (parent != kRoot) ++node(parent).children;
  ++kept_;
}

std::int64_t PageTree::held_alone(const PageLease& lease) const {
  const auto shared = lease.pages.begin() + lease.shared;
  const auto alone = std::count_if(lease.pages.begin(), shared,
                                   [&](std::int32_t page) { return node(page).holders == 1; });
  return alone + (lease.pages.end() - shared);
}

void PageTree::release(PageLease& lease) {
  ++clock_;
  for (std::int64_t i = static_cast<std::int64_t>(lease.pages.size()) - 1; i >= 0; --i) {
    const std::int32_t page = lease.pages[static_cast<std::size_t>(i)];
    i < lease.shared ? let_go(page) : give_back(page);
  }
  lease = {};
}

void PageTree::clear() {
  while (!leaves_.empty()) drop(leaves_.begin()->second);
}

}  // namespace m3
