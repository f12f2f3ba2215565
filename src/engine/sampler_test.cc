#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace m3 {
namespace {

// Draws at `draws` positions; returns how often each id came.
std::vector<int> histogram(const std::vector<float>& logits, SamplingParams params, int draws,
                           const TokenHistory& history = {}) {
  Sampler sampler;
  std::vector<int> counts(logits.size(), 0);
  for (int position = 0; position < draws; ++position)
    ++counts[static_cast<std::size_t>(sampler.sample(logits, params, history, position).id)];
  return counts;
}

// Pearson's statistic against expected probabilities; ids of probability 0 must not occur.
double chi_square(const std::vector<int>& counts, const std::vector<double>& expected) {
  double draws = 0, statistic = 0;
  for (const int count : counts) draws += count;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (expected[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "id " << i;
      continue;
    }
    const double difference = counts[i] - draws * expected[i];
    statistic += difference * difference / (draws * expected[i]);
  }
  return statistic;
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (const float x : logits) sum += p.emplace_back(std::exp(x / temperature));
  for (double& x : p) x /= sum;
  return p;
}

const std::vector<float> kLogits = {1.0f, 0.5f, -0.3f, 2.0f, 0.0f, -1.5f};

TEST(Sampler, DrawsFromTheSoftmax) {
  // 5 degrees of freedom: 20.5 is exceeded once in a thousand seeds. The seeds are fixed.
  for (const float temperature : {0.7f, 1.0f, 1.6f})
    EXPECT_LT(chi_square(histogram(kLogits, {.temperature = temperature, .seed = 5}, 40000),
                         softmax(kLogits, temperature)),
              20.5);
}

TEST(Sampler, CutsInTheOrderMinPTopKTopP) {
  const auto p = softmax(kLogits, 1);
  // Descending: ids 3 (.46), 0 (.17), 1 (.10), 4, 2, 5.
  auto only = [&](std::vector<std::size_t> ids) {
    std::vector<double> kept(p.size(), 0);
    double sum = 0;
    for (const auto id : ids) sum += p[id];
    for (const auto id : ids) kept[id] = p[id] / sum;
    return kept;
  };
  SamplingParams top_k{.top_k = 3, .seed = 1};
  EXPECT_LT(chi_square(histogram(kLogits, top_k, 20000), only({3, 0, 1})), 20.5);
  SamplingParams top_p{.top_p = 0.6f, .seed = 2};
  EXPECT_LT(chi_square(histogram(kLogits, top_p, 20000), only({3, 0})), 20.5);
  // Of the three kept by top-k, the two best have more than 0.8 of what is left.
  SamplingParams both{.top_k = 3, .top_p = 0.8f, .seed = 3};
  EXPECT_LT(chi_square(histogram(kLogits, both, 20000), only({3, 0})), 20.5);
  SamplingParams min_p{.min_p = 0.3f, .seed = 4};
  EXPECT_LT(chi_square(histogram(kLogits, min_p, 20000), only({3, 0})), 20.5);
}

TEST(Sampler, TopPOverALargeVocabularyKeepsTheRightCount) {
  // Uniform: the mass of 0.5 is exactly half of the ids, far beyond the first sorted piece.
  const std::vector<float> flat(20000, 1.0f);
  const auto counts = histogram(flat, {.top_p = 0.5f, .seed = 9}, 200);
  for (std::size_t id = 10001; id < counts.size(); ++id) ASSERT_EQ(counts[id], 0) << id;
  EXPECT_GT(*std::max_element(counts.begin() + 9000, counts.begin() + 10000), 0);
}

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  Sampler sampler;
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 3, 2}, {.temperature = 0}, {}, 7).id, 1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(sampler.sample(std::vector<float>{nan, 3, nan, 2}, {.temperature = 0}, {}, 7).id, 1);
}

TEST(Sampler, DrawsNothingFromNothing) {
  Sampler sampler;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float temperature : {0.0f, 1.0f}) {
    const SamplingParams params{.temperature = temperature, .banned = {1}};
    EXPECT_EQ(sampler.sample(std::vector<float>{nan, 3, nan}, params, {}, 7).id, -1);
  }
}

TEST(Sampler, PenaltiesAndBias) {
  Sampler sampler;
  TokenHistory history;
  history.prompt[0] = 1;
  history.answer[3] = 2;
  SamplingParams greedy{.temperature = 0};
  const std::vector<float> logits = {2.0f, 1.5f, -1.0f, 2.5f};
  auto best = [&](const SamplingParams& p) { return sampler.sample(logits, p, history, 1).id; };
  EXPECT_EQ(best(greedy), 3);
  greedy.presence_penalty = 0.6f;  // 2.5 - 0.6 < 2.0
  EXPECT_EQ(best(greedy), 0);
  greedy.presence_penalty = 0;
  greedy.frequency_penalty = 0.3f;  // twice: the same
  EXPECT_EQ(best(greedy), 0);
  greedy.repetition_penalty = 2;  // 2.0 / 2 and (2.5 - ...) / 2: id 1 is left at 1.5
  EXPECT_EQ(best(greedy), 1);
  greedy.logit_bias = {{2, 10.0f}};
  EXPECT_EQ(best(greedy), 2);
  greedy.banned = {2};
  EXPECT_EQ(best(greedy), 1);
}

TEST(Sampler, LogprobsAreTheModelsOwn) {
  Sampler sampler;
  const auto token = sampler.sample(kLogits, {.temperature = 0, .logprobs = 2}, {}, 0);
  const auto p = softmax(kLogits, 1);
  ASSERT_EQ(token.top.size(), 2u);
  EXPECT_EQ(token.top[0].id, 3);
  EXPECT_EQ(token.top[1].id, 0);
  EXPECT_NEAR(token.logprob, std::log(p[3]), 1e-5);
  EXPECT_NEAR(token.top[1].logprob, std::log(p[0]), 1e-5);
  EXPECT_EQ(token.rank, 1);
  EXPECT_EQ(score_token(kLogits, 0, 0).rank, 2);
  EXPECT_NEAR(score_token(kLogits, 0, 0).logprob, std::log(p[0]), 1e-5);
}

TEST(Sampler, ADrawIsAFunctionOfSeedAndPosition) {
  Sampler one, other;
  other.sample(std::vector<float>{5, 1}, {.seed = 99}, {}, 3);  // whatever ran before
  bool varies = false;
  for (int position = 0; position < 200; ++position) {
    const SamplingParams params{.seed = 4};
    const auto a = one.sample(kLogits, params, {}, position).id;
    EXPECT_EQ(a, other.sample(kLogits, params, {}, position).id);
    varies |= a != one.sample(kLogits, {.seed = 5}, {}, position).id;
  }
  EXPECT_TRUE(varies);
}

TEST(CheckSampling, NamesTheFieldAndTheRange) {
  const auto message = [](const SamplingParams& p) {
    const Status status = check_sampling(p, 100);
    return status ? std::string("accepted") : status.error().message;
  };
  EXPECT_EQ(message({}), "accepted");
  EXPECT_EQ(message({.temperature = -1}), "temperature is -1, expected 0 to 2");
  EXPECT_EQ(message({.top_p = 0}), "top_p is 0, expected above 0 to 1");
  EXPECT_NE(message({.temperature = std::nanf("")}), "accepted");
  EXPECT_NE(message({.logit_bias = {{100, 1.0f}}}), "accepted");
  EXPECT_NE(message({.repetition_penalty = 0}), "accepted");
}

}  // namespace
}  // namespace m3
