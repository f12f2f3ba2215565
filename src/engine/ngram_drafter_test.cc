#include "engine/ngram_drafter.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

using Ids = std::vector<std::int32_t>;

TEST(NgramDrafter, GoesOnAsTheLastTime) {
  EXPECT_EQ(look_up_ngram(Ids{1, 2, 3, 4, 5, 6, 1, 2}, 3), (Ids{3, 4, 5}));
  EXPECT_EQ(look_up_ngram(Ids{1, 2, 3, 4, 5, 6, 1, 2}, 1), (Ids{3}));
}

TEST(NgramDrafter, TheLongestRunWinsThenTheLatest) {
  EXPECT_EQ(look_up_ngram(Ids{9, 1, 2, 7, 1, 2, 8, 9, 1, 2}, 1), (Ids{7}));
  EXPECT_EQ(look_up_ngram(Ids{1, 2, 7, 5, 1, 2, 8, 6, 1, 2}, 1), (Ids{8}));
}

TEST(NgramDrafter, ARoundGoesOn) {
  EXPECT_EQ(look_up_ngram(Ids{5, 6, 7, 6, 7}, 5), (Ids{6, 7, 6, 7, 6}));
  EXPECT_EQ(look_up_ngram(Ids{4, 4, 4}, 4), (Ids{4, 4, 4, 4}));
}

TEST(NgramDrafter, DraftsNothingWhereNothingRecurs) {
  EXPECT_EQ(look_up_ngram(Ids{}, 3), Ids());
  EXPECT_EQ(look_up_ngram(Ids{1}, 3), Ids());
  EXPECT_EQ(look_up_ngram(Ids{1, 1}, 3), Ids());
  EXPECT_EQ(look_up_ngram(Ids{1, 2, 3, 1}, 3), Ids());
  EXPECT_EQ(look_up_ngram(Ids{1, 2, 3, 1, 2}, 0), Ids());
}

}  // namespace
}  // namespace m3
