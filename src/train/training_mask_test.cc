#include "train/training_mask.h"

#include <gtest/gtest.h>

#include <limits>

namespace m3 {
namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();
constexpr std::int32_t kNone = kNotScored;

// Ids 10, 11, …, each with the next one as its label where `scored` says 1.
TrainingSequence sequence(const std::vector<int>& scored) {
  TrainingSequence s;
  for (std::size_t t = 0; t < scored.size(); ++t) {
    s.ids.push_back(static_cast<std::int32_t>(10 + t));
    s.labels.push_back(scored[t] != 0 ? static_cast<std::int32_t>(11 + t) : kNone);
  }
  return s;
}

// A mask of rows of "1" and "0".
TrainingMask pairs(const std::vector<std::string>& rows) {
  std::vector<bool> attends;
  for (const std::string& row : rows)
    for (const char c : row) attends.push_back(c == '1');
  return boolean_mask(attends, std::ssize(rows));
}

std::vector<TrainingSequence> applied(const TrainingSequence& s, const TrainingMask& mask) {
  auto parts = apply_mask(s, mask);
  EXPECT_TRUE(parts) << parts.error().message;
  return parts ? *parts : std::vector<TrainingSequence>();
}

using Ids = std::vector<std::int32_t>;

TEST(TrainingMask, PaddingIsLeftOut) {
  for (const auto& mask :
       {TrainingMask{{0, 1, 1, 1, 0}}, pairs({"00000", "01000", "01100", "01110", "01110"})}) {
    const auto parts = applied(sequence({0, 1, 1, 0, 0}), mask);
    ASSERT_EQ(parts.size(), 1);
    EXPECT_EQ(parts[0].ids, (Ids{11, 12, 13}));
    EXPECT_EQ(parts[0].labels, (Ids{12, 13, kNone}));
    EXPECT_TRUE(parts[0].positions.empty());  // as if it had never been padded
    EXPECT_TRUE(parts[0].bias.empty());
  }
}

TEST(TrainingMask, PaddingInsideLeavesPositionsAsTheyWere) {
  const auto parts = applied(sequence({1, 0, 1, 0}), {{1, 0, 1, 1}});
  ASSERT_EQ(parts.size(), 1);
  EXPECT_EQ(parts[0].ids, (Ids{10, 12, 13}));
  EXPECT_EQ(parts[0].positions, (Ids{0, 2, 3}));
}

TEST(TrainingMask, DocumentsAreSequences) {
  for (const auto& mask : {TrainingMask{{7, 7, 3, 3, 3, 0}},
                           pairs({"100000", "110000", "001000", "001100", "001110", "000000"})}) {
    TrainingSequence packed = sequence({1, 0, 1, 1, 0, 0});
    packed.positions = {0, 1, 0, 1, 2, 0};
    const auto parts = applied(packed, mask);
    ASSERT_EQ(parts.size(), 2);
    EXPECT_EQ(parts[0].ids, (Ids{10, 11}));
    EXPECT_EQ(parts[0].positions, (Ids{0, 1}));
    EXPECT_EQ(parts[1].ids, (Ids{12, 13, 14}));
    EXPECT_EQ(parts[1].positions, (Ids{0, 1, 2}));
    EXPECT_EQ(parts[1].labels, (Ids{13, 14, kNone}));
    for (const TrainingSequence& part : parts) EXPECT_TRUE(part.bias.empty());
  }
}

// The first two tokens see each other; the next two are a document of their own.
TEST(TrainingMask, KeepsABiasWhereItSaysMore) {
  const auto parts = applied(sequence({1, 1, 1, 1}), pairs({"1100", "1100", "0010", "0011"}));
  ASSERT_EQ(parts.size(), 2);
  EXPECT_EQ(parts[0].bias, (std::vector<float>{0, 0, 0, 0}));
  EXPECT_TRUE(parts[1].bias.empty());
}

TEST(TrainingMask, WhatAWholeRowHasInCommonIsNothing) {
  std::vector<float> bias = {5,  kHidden, kHidden,  //
                             -3, -3,      kHidden,  //
                             2,  1.5f,    2};
  const auto parts = applied(sequence({1, 1, 1}), additive_mask(bias, 3));
  ASSERT_EQ(parts.size(), 1);
  EXPECT_EQ(parts[0].bias, (std::vector<float>{0, kHidden, kHidden, 0, 0, kHidden, 0, -0.5f, 0}));
  bias[7] = 2;
  EXPECT_TRUE(applied(sequence({1, 1, 1}), additive_mask(bias, 3))[0].bias.empty());
}

// Spec, training §2.2: padding of an additive mask is whom every row is kept from. A row that sees
// nothing is no padding while another one attends to it.
TEST(TrainingMask, AdditivePaddingIsAColumn) {
  const std::vector<float> bias = {kHidden, kHidden, kHidden,  //
                                   0,       0,       kHidden,  //
                                   0,       kHidden, kHidden};
  const auto parts = applied(sequence({1, 1, 0}), additive_mask(bias, 3));
  ASSERT_EQ(parts.size(), 1);
  EXPECT_EQ(parts[0].ids, (Ids{10, 11}));
  EXPECT_EQ(parts[0].bias, (std::vector<float>{kHidden, kHidden, 0, 0}));
}

TEST(TrainingMask, SaysWhatIsWrong) {
  const auto message = [](const TrainingSequence& s, const TrainingMask& mask) {
    const auto parts = apply_mask(s, mask);
    return parts ? std::string() : parts.error().message;
  };
  EXPECT_EQ(message(sequence({1, 1, 0}), {{1, 0, 1}}),
            "token 1 is padding and has the label 12, expected -100");
  EXPECT_EQ(message(sequence({0, 0}), {{0, 0}}), "all of the 2 tokens are padding");
}

}  // namespace
}  // namespace m3
