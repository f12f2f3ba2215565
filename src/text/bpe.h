// Byte-pair encoding of one piece of text (spec: chat-and-api §1.3).
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

namespace m3 {

using TokenId = std::int32_t;

// Two neighbours that become one token. Its place in the list of merges is its rank.
struct Merge {
  TokenId left, right, merged;
};

// Pair to rule by open addressing: it is asked for every two neighbours of every text, where
// std::unordered_map costs a cache miss more. At most half of the slots are taken.
class MergeTable {
 public:
  static constexpr std::uint32_t kNoRank = std::numeric_limits<std::uint32_t>::max();
  struct Rule {
    std::uint32_t rank;  // kNoRank: these two are not merged
    TokenId merged;
  };
  // Of two merges of the same pair the later counts, as in the reference.
  explicit MergeTable(const std::vector<Merge>& merges);
  const Rule& find(TokenId left, TokenId right) const;

 private:
  struct Slot {
    std::uint64_t pair;  // left << 32 | right
    Rule rule;
  };
  std::size_t slot_of(std::uint64_t pair) const;
  std::vector<Slot> slots_;
};

class Bpe {
 public:
  // `byte_ids[b]` is the token of the single byte b.
  Bpe(const std::array<TokenId, 256>& byte_ids, const std::vector<Merge>& merges)
      : byte_ids_(byte_ids), table_(merges) {}

  // Appends the tokens of `piece` (under 2 GiB): beginning with one token for each byte, the pair
  // of neighbours of the lowest rank is merged, the leftmost of equals first, until no pair can be.
  // O(n log n).
  void encode(std::string_view piece, std::vector<TokenId>& ids) const;

 private:
  TokenId byte_id(char c) const { return byte_ids_[static_cast<unsigned char>(c)]; }
  void encode_short(std::string_view piece, std::vector<TokenId>& ids) const;
  void encode_long(std::string_view piece, std::vector<TokenId>& ids) const;

  std::array<TokenId, 256> byte_ids_;
  MergeTable table_;
};

}  // namespace m3
