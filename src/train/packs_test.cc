#include "train/packs.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

TEST(Packs, AreFilledByTheLongestFirst) {
  const std::vector<std::int64_t> lengths = {3, 9, 4, 6, 1, 7};
  const auto packs = fill_packs(lengths, 10);
  EXPECT_EQ(packs, (std::vector<std::vector<std::size_t>>{{1, 4}, {5, 0}, {3, 2}}));
  EXPECT_TRUE(fill_packs({}, 10).empty());
}

TEST(Packs, InTheirOrderAreCutJustSo) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < 200; ++i) lengths.push_back(1 + i * 37 % 100);
  const auto packs = fill_packs(lengths, 100);
  std::vector<TrainingSequence> sequences;
  std::vector<std::size_t> sizes;
  for (const auto& pack : packs) {
    sizes.push_back(pack.size());
    for (const std::size_t i : pack)
      sequences.push_back(
          {.ids = std::vector<std::int32_t>(static_cast<std::size_t>(lengths[i])), .labels = {}});
  }
  std::vector<std::size_t> cut;
  for (const auto& pack : packs_of(sequences, 100)) {
    EXPECT_LE(rows_of(pack), 100);
    cut.push_back(pack.size());
  }
  EXPECT_EQ(cut, sizes);
}

}  // namespace
}  // namespace m3
