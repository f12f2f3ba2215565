#include "text/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

namespace m3 {
namespace {

// Token b is the byte b; the merges name tokens from 256 on.
Bpe bpe_of(const std::vector<Merge>& merges) {
  std::array<TokenId, 256> byte_ids;
  std::iota(byte_ids.begin(), byte_ids.end(), 0);
  return Bpe(byte_ids, merges);
}

std::vector<TokenId> encode(const Bpe& bpe, std::string_view piece) {
  std::vector<TokenId> ids;
  bpe.encode(piece, ids);
  return ids;
}

// The definition, without any cleverness.
std::vector<TokenId> encode_plainly(const std::vector<Merge>& merges, std::string_view piece) {
  std::map<std::pair<TokenId, TokenId>, std::size_t> ranks;
  for (std::size_t rank = 0; rank < merges.size(); ++rank)
    ranks[{merges[rank].left, merges[rank].right}] = rank;
  std::vector<TokenId> ids;
  for (const char c : piece) ids.push_back(static_cast<unsigned char>(c));
  for (;;) {
    std::size_t best = merges.size(), at = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i)
      if (const auto it = ranks.find({ids[i], ids[i + 1]}); it != ranks.end() && it->second < best)
        best = it->second, at = i;
    if (best == merges.size()) return ids;
    ids[at] = merges[best].merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(Bpe, MergesTheLeftmostOfEquals) {
  const Bpe bpe = bpe_of({{'a', 'a', 256}});
  EXPECT_EQ(encode(bpe, "aaa"), (std::vector<TokenId>{256, 'a'}));
  EXPECT_EQ(encode(bpe, ""), std::vector<TokenId>{});
}

TEST(Bpe, MergesTheLowestRankFirst) {
  const Bpe bpe = bpe_of({{'b', 'c', 256}, {'a', 'b', 257}, {'a', 256, 258}});
  EXPECT_EQ(encode(bpe, "abc"), (std::vector<TokenId>{258}));
  EXPECT_EQ(encode(bpe, "abab"), (std::vector<TokenId>{257, 257}));
}

TEST(Bpe, OfTwoRulesForAPairTheLaterCounts) {
  const Bpe bpe = bpe_of({{'a', 'b', 256}, {'b', 'c', 257}, {'a', 'b', 258}});
  EXPECT_EQ(encode(bpe, "abc"), (std::vector<TokenId>{'a', 257}));
  EXPECT_EQ(encode(bpe, "ab"), (std::vector<TokenId>{258}));
}

TEST(Bpe, ShortAndLongPiecesFollowTheDefinition) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<Merge> merges;
    const auto any = [&](std::size_t count) {
      const auto which = static_cast<TokenId>(random() % count);
      return which < 4 ? 'a' + which : 252 + which;
    };
    for (TokenId merged = 256; merged < 256 + 20; ++merged)
      merges.push_back({any(4 + merges.size()), any(4 + merges.size()), merged});
    const Bpe bpe = bpe_of(merges);
    for (const std::size_t size : {1u, 2u, 7u, 31u, 32u, 33u, 34u, 100u, 300u}) {
      std::string piece;
      while (piece.size() < size) piece += static_cast<char>('a' + random() % 4);
      EXPECT_EQ(encode(bpe, piece), encode_plainly(merges, piece)) << piece;
    }
  }
}

TEST(Bpe, LongRunsAreNearLinear) {
  std::vector<Merge> merges = {{'a', 'a', 256}};
  for (TokenId id = 257; id < 270; ++id) merges.push_back({id - 1, id - 1, id});
  const std::vector<TokenId> ids = encode(bpe_of(merges), std::string(1 << 20, 'a'));
  EXPECT_EQ(ids, std::vector<TokenId>(64, 269));
}

}  // namespace
}  // namespace m3
