#include "model/batch.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

using Ints = std::vector<std::int32_t>;

TEST(Batch, WidensThePageTableForTheLongestSequence) {
  Batch batch;
  const Ints first = {7, 8}, second = {5};
  batch.add_sequence(first, 3, Ints{4}, /*all_outputs=*/false);
  batch.want_last();
  batch.add_sequence(second, 40, Ints{1, 2, 3}, /*all_outputs=*/true);
  EXPECT_EQ(batch.rows(), 3);
  EXPECT_EQ(batch.sequence_count(), 2);
  EXPECT_EQ(batch.pages, (Ints{4, -1, -1, 1, 2, 3}));
  EXPECT_EQ(batch.slots, (std::vector<std::int64_t>{3, 4, 40}));
  EXPECT_EQ(batch.sequences, (Ints{0, 0, 1}));
  EXPECT_EQ(batch.outputs, (Ints{1, 2}));
}

TEST(Batch, NamesAdaptersWhereSomebodyHasOne) {
  const Ints tokens = {7, 8};
  Batch batch;
  batch.add_sequence(tokens, 0, Ints{0}, /*all_outputs=*/false);
  EXPECT_TRUE(batch.adapters.empty());
  batch.add_sequence(tokens, 0, Ints{1}, /*all_outputs=*/false, /*adapter=*/2);
  batch.add_sequence(tokens, 0, Ints{2}, /*all_outputs=*/false);
  EXPECT_EQ(batch.adapters, (Ints{-1, -1, 2, 2, -1, -1}));
}

}  // namespace
}  // namespace m3
