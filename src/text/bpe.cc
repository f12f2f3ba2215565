#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>

namespace m3 {
namespace {

using Rule = MergeTable::Rule;

// Up to this many bytes, looking at all pairs for each merge beats keeping a heap.
constexpr std::size_t kShortBytesMax = 32;
constexpr std::uint64_t kFree = ~std::uint64_t{0};  // no pair: ids are not negative
constexpr TokenId kGone = -1;                       // merged into its left neighbour

std::uint64_t pair_of(TokenId left, TokenId right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

// A long piece: its tokens are linked by index, and a heap knows the next pair to merge.
class LongPiece {
 public:
  LongPiece(std::vector<TokenId> ids, const MergeTable& table) : table_(table) {
    const auto count = static_cast<std::int32_t>(ids.size());
    links_.reserve(ids.size());
    for (std::int32_t i = 0; i < count; ++i)
      links_.push_back({ids[static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : kEnd});
    for (std::int32_t i = 0; i + 1 < count; ++i) consider(i);
  }

  void merge_all() {
    while (!queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      if (still_stands(best)) merge(best);
    }
  }

  void append_to(std::vector<TokenId>& ids) const {
    for (std::int32_t i = 0; i != kEnd; i = at(i).next) ids.push_back(at(i).id);
  }

 private:
  static constexpr std::int32_t kEnd = -1;
  struct Link {
    TokenId id;
    std::int32_t previous, next;
  };
  // A pair that could be merged when it was seen; by now either token may have changed.
  struct Candidate {
    Rule rule;
    std::int32_t position;  // index of the left token
    TokenId left, right;
    bool operator>(const Candidate& other) const {
      return rule.rank != other.rule.rank ? rule.rank > other.rule.rank : position > other.position;
    }
  };

  Link& at(std::int32_t i) { return links_[static_cast<std::size_t>(i)]; }
  const Link& at(std::int32_t i) const { return links_[static_cast<std::size_t>(i)]; }

  // Queues the token at `left` and its right neighbour, if there are both and a rule for them.
  void consider(std::int32_t left) {
    if (left == kEnd || at(left).next == kEnd) return;
    const TokenId left_id = at(left).id;
    const TokenId right_id = at(at(left).next).id;
    const Rule& rule = table_.find(left_id, right_id);
    if (rule.rank != MergeTable::kNoRank) queue_.push({rule, left, left_id, right_id});
  }

  bool still_stands(const Candidate& pair) const {
    const Link& left = at(pair.position);
    return left.id == pair.left && left.next != kEnd && at(left.next).id == pair.right;
  }

  void merge(const Candidate& pair) {
    Link& left = at(pair.position);
    Link& right = at(left.next);
    left.id = pair.rule.merged;
    left.next = right.next;
    right.id = kGone;
    if (left.next != kEnd) at(left.next).previous = pair.position;
    consider(left.previous);
    consider(pair.position);
  }

  const MergeTable& table_;
  std::vector<Link> links_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue_;
};

}  // namespace

MergeTable::MergeTable(const std::vector<Merge>& merges)
    : slots_(std::bit_ceil(2 * merges.size() + 1), Slot{kFree, {kNoRank, kGone}}) {
  for (std::uint32_t rank = 0; rank < merges.size(); ++rank) {
    const std::uint64_t pair = pair_of(merges[rank].left, merges[rank].right);
    slots_[slot_of(pair)] = {pair, {rank, merges[rank].merged}};
  }
}

const Rule& MergeTable::find(TokenId left, TokenId right) const {
  return slots_[slot_of(pair_of(left, right))].rule;
}

// Where the pair is, or the free slot where it would be.
std::size_t MergeTable::slot_of(std::uint64_t pair) const {
  const std::size_t mask = slots_.size() - 1;
  // Fibonacci hashing: the high half of the product depends on every bit of the pair.
  std::size_t slot = (pair * 0x9E3779B97F4A7C15u >> 32) & mask;
  while (slots_[slot].pair != kFree && slots_[slot].pair != pair) slot = (slot + 1) & mask;
  return slot;
}

void Bpe::encode(std::string_view piece, std::vector<TokenId>& ids) const {
  if (piece.size() <= kShortBytesMax) {
    encode_short(piece, ids);
  } else {
    encode_long(piece, ids);
  }
}

void Bpe::encode_short(std::string_view piece, std::vector<TokenId>& ids) const {
  std::array<TokenId, kShortBytesMax> tokens;
  std::array<Rule, kShortBytesMax> rules;  // rules[i]: of tokens i and i + 1
  std::size_t count = piece.size();
  std::transform(piece.begin(), piece.end(), tokens.begin(), [&](char c) { return byte_id(c); });
  for (std::size_t i = 0; i + 1 < count; ++i) rules[i] = table_.find(tokens[i], tokens[i + 1]);
  while (count > 1) {
    const auto best = std::min_element(rules.data(), rules.data() + count - 1,
                                       [](Rule a, Rule b) { return a.rank < b.rank; });
    if (best->rank == MergeTable::kNoRank) break;
    const auto at = static_cast<std::size_t>(best - rules.data());
    tokens[at] = best->merged;
    std::copy(tokens.data() + at + 2, tokens.data() + count, tokens.data() + at + 1);
    std::copy(rules.data() + at + 1, rules.data() + count - 1, rules.data() + at);
    --count;
    if (at > 0) rules[at - 1] = table_.find(tokens[at - 1], tokens[at]);
    if (at + 1 < count) rules[at] = table_.find(tokens[at], tokens[at + 1]);
  }
  ids.insert(ids.end(), tokens.data(), tokens.data() + count);
}

void Bpe::encode_long(std::string_view piece, std::vector<TokenId>& ids) const {
  std::vector<TokenId> bytes(piece.size());
  std::transform(piece.begin(), piece.end(), bytes.begin(), [&](char c) { return byte_id(c); });
  LongPiece tokens(std::move(bytes), table_);
  tokens.merge_all();
  tokens.append_to(ids);
}

}  // namespace m3
