// The pages of a cache, and what is in them: sequences that begin alike share their full pages.
//
// A full page never changes again: what it holds is a function of the tokens up to its end (and of
// the pictures among them, and of the adapter that read them). So full pages form a tree, each
// below the page that goes before it, and stay in it when nobody holds them any more, until their
// room is wanted: a conversation's next turn, another choice of the same prompt, a sequence that
// had to give way find them there. Knows no model.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace m3 {

// Pages that hold `tokens` tokens of one sequence.
constexpr std::int64_t pages_of(std::int64_t tokens, std::int64_t page_tokens) {
  return (tokens + page_tokens - 1) / page_tokens;
}

// What a sequence holds: first its pages in the tree, then those that are its own.
struct PageLease {
  std::vector<std::int32_t> pages;
  std::int64_t shared = 0;  // leading pages that are in the tree, held by this lease
};

// What tells one page from another that has the same page before it: its token ids, and whatever
// else its contents depend on (SplicePlan::marks()).
class PageText {
 public:
  PageText() = default;
  explicit PageText(std::vector<std::int64_t> items);
  std::uint64_t hash() const { return hash_; }
  friend bool operator==(const PageText& a, const PageText& b) {
    return a.hash_ == b.hash_ && a.items_ == b.items_;
  }

 private:
  std::vector<std::int64_t> items_;
  std::uint64_t hash_ = 0;
};

class PageTree {
 public:
  explicit PageTree(std::int64_t pages);

  std::int64_t pages() const { return static_cast<std::int64_t>(nodes_.size()); }
  // Pages that grow() can hand out: those that are free, and those in the tree that nobody holds.
  std::int64_t available() const { return free_pages() + idle_; }
  std::int64_t free_pages() const { return static_cast<std::int64_t>(free_.size()); }
  // Pages in the tree, held or not.
  std::int64_t kept_pages() const { return kept_; }

  // How far the tree knows a sequence that begins with these pages.
  struct Match {
    std::int64_t pages = 0;
    std::int64_t idle = 0;  // of them, counted in available() now
  };
  Match find(std::span<const PageText> pages) const;
  // Gives the pages that find() found to an empty lease.
  void take(std::span<const PageText> pages, PageLease& lease);

  // Appends `count` pages, dropping from the tree what nobody has held for longest. Does nothing
  // and returns false if fewer are available.
  bool grow(PageLease& lease, std::int64_t count);
  // The lease's first own page is full: it moves into the tree. Where the tree has the same page
  // already, the lease takes that one, and its own is free.
  void store(PageLease& lease, PageText text);
  // What would become available if this lease were given back, at least.
  std::int64_t held_alone(const PageLease& lease) const;
  // Gives everything back; pages in the tree stay there.
  void release(PageLease& lease);
  // Drops everything that nobody holds.
  void clear();

 private:
  static constexpr std::int32_t kRoot = -1;
  struct Node {  // by page
    std::int32_t parent = kRoot;
    std::int32_t children = 0;
    std::int64_t holders = -1;  // leases that hold it; -1: not in the tree
    std::uint64_t used = 0;     // when it was last given back
    std::uint64_t hash = 0;
    PageText text;
  };
  Node& node(std::int32_t page) { return nodes_[static_cast<std::size_t>(page)]; }
  const Node& node(std::int32_t page) const { return nodes_[static_cast<std::size_t>(page)]; }
  // The page below `parent` with this text; kRoot where there is none.
  std::int32_t child(std::int32_t parent, const PageText& text, std::uint64_t hash) const;
  void hold(std::int32_t page);
  void let_go(std::int32_t page);
  void drop(std::int32_t page);
  void give_back(std::int32_t page);

  std::vector<Node> nodes_;
  std::vector<std::int32_t> free_;  // a heap, lowest id on top
  std::int64_t kept_ = 0;
  std::int64_t idle_ = 0;                                         // in the tree, held by nobody
  std::uint64_t clock_ = 0;                                       // counts releases
  std::unordered_multimap<std::uint64_t, std::int32_t> by_hash_;  // of parent and text
  // Pages that may be dropped: held by nobody, with nothing below them; longest unused first.
  std::set<std::pair<std::uint64_t, std::int32_t>> leaves_;
};

}  // namespace m3
