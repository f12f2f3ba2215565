#include "engine/draft_length.h"

#include <gtest/gtest.h>

#include <functional>

#include "base/random.h"

namespace m3 {
namespace {

constexpr std::int64_t kMost = 8;

// A machine and a drafter, of which DraftLength sees only what came of each step.
struct World {
  std::function<double(std::int64_t rows)> seconds;
  std::vector<double> rates;  // of each sequence: a draft's chance, the same at every place
};

struct Outcome {
  double tokens = 0;
  double seconds = 0;
  std::vector<std::int64_t> lengths;  // of the last step
  double speed() const { return tokens / seconds; }
};

class Simulation {
 public:
  explicit Simulation(std::size_t sequences) : acceptance_(sequences, Acceptance(kMost)) {}

  Outcome run(const World& world, int steps) {
    Outcome sum;
    for (int step = 0; step < steps; ++step) {
      std::vector<DraftRoom> rooms;
      for (const Acceptance& a : acceptance_) rooms.push_back({&a, kMost});
      sum.lengths = length_.choose(rooms, 1000);
      std::int64_t rows = 0;
      for (std::size_t i = 0; i < acceptance_.size(); ++i) {
        const std::int64_t accepted = draws(world.rates[i], sum.lengths[i]);
        acceptance_[i].saw(sum.lengths[i], accepted);
        rows += 1 + sum.lengths[i];
        sum.tokens += 1 + static_cast<double>(accepted);
      }
      sum.seconds += world.seconds(rows);
      length_.saw_step(rows, world.seconds(rows));
    }
    return sum;
  }

 private:
  std::int64_t draws(double rate, std::int64_t drafted) {
    std::int64_t accepted = 0;
    while (accepted < drafted && uniform_at(1, 2, ++draw_) < rate) ++accepted;
    return accepted;
  }
  DraftLength length_;
  std::vector<Acceptance> acceptance_;
  std::uint64_t draw_ = 0;
};

// Expected tokens a second of one sequence that always drafts `length` tokens.
double fixed_speed(const World& world, std::int64_t length) {
  double tokens = 1, chance = 1;
  for (std::int64_t i = 0; i < length; ++i) tokens += chance *= world.rates[0];
  return tokens / world.seconds(1 + length);
}

const auto kRowsCostALot = [](std::int64_t rows) {
  return 0.003 + 0.007 * static_cast<double>(rows);
};
const auto kRowsCostLittle = [](std::int64_t rows) {
  return 0.0097 + 0.0003 * static_cast<double>(rows);
};
// As GPUs have it: up to eight rows for the price of two.
const auto kTiles = [](std::int64_t rows) { return rows == 1 ? 0.01 : rows <= 8 ? 0.014 : 0.03; };

TEST(DraftLength, IsNearlyAsFastAsTheBestFixedLength) {
  for (const auto& seconds : {std::function<double(std::int64_t)>(kRowsCostALot),
                              std::function<double(std::int64_t)>(kRowsCostLittle),
                              std::function<double(std::int64_t)>(kTiles)}) {
    for (const double rate : {0.0, 0.3, 0.6, 0.8, 0.95, 1.0}) {
      const World world{seconds, {rate}};
      double best = 0;
      for (std::int64_t length = 0; length <= kMost; ++length)
        best = std::max(best, fixed_speed(world, length));
      Simulation simulation(1);
      simulation.run(world, 100);
      EXPECT_GT(simulation.run(world, 2000).speed(), 0.9 * best)
          << "rate " << rate << ", two rows take " << seconds(2);
    }
  }
}

TEST(DraftLength, WrongDraftsCostLittleFromTheBeginning) {
  const World world{kRowsCostALot, {0.0}};
  Simulation simulation(1);
  const double plain = 1 / kRowsCostALot(1);
  EXPECT_GT(simulation.run(world, 200).speed(), 0.9 * plain);
  EXPECT_GT(simulation.run(world, 1000).speed(), 0.95 * plain);
}

TEST(DraftLength, ComesBackWhenDraftsGetRight) {
  Simulation simulation(1);
  const auto off = simulation.run({kRowsCostLittle, {0.0}}, 500);
  EXPECT_LT(off.tokens, 510);
  simulation.run({kRowsCostLittle, {1.0}}, 500);
  const auto on = simulation.run({kRowsCostLittle, {1.0}}, 100);
  EXPECT_GT(on.tokens, 700);
}

TEST(DraftLength, EachSequenceDraftsAsFarAsItIsRight) {
  const World world{kRowsCostLittle, {1.0, 0.0}};
  Simulation simulation(2);
  simulation.run(world, 300);
  std::int64_t right = 0, wrong = 0;
  for (int step = 0; step < 100; ++step) {
    const auto lengths = simulation.run(world, 1).lengths;
    right += lengths[0];
    wrong += lengths[1];
  }
  EXPECT_GT(right, 700);
  EXPECT_LT(wrong, 100);
}

TEST(DraftLength, KeepsWithinTheRoom) {
  const Acceptance good(kMost);
  const std::vector<DraftRoom> rooms = {{&good, 0}, {&good, 3}, {&good, kMost}};
  for (const std::int64_t rows_max : {0, 1, 5, 100}) {
    DraftLength length;
    for (int step = 0; step < 20; ++step) {
      const auto lengths = length.choose(rooms, rows_max);
      ASSERT_EQ(lengths.size(), 3u);
      EXPECT_EQ(lengths[0], 0);
      EXPECT_LE(lengths[1], 3);
      EXPECT_LE(lengths[0] + lengths[1] + lengths[2], rows_max);
      length.saw_step(3 + lengths[1] + lengths[2], 0.01);
    }
  }
  EXPECT_TRUE(DraftLength().choose({}, 10).empty());
}

TEST(StepCost, InterpolatesAndForgetsDisturbances) {
  StepCost cost;
  cost.saw(1, 1.0);
  cost.saw(5, 3.0);
  EXPECT_DOUBLE_EQ(cost.estimate(1), 1.0);
  EXPECT_DOUBLE_EQ(cost.estimate(3), 2.0);
  EXPECT_GT(cost.estimate(9), 3.0);
  cost.saw(1, 1000.0);
  EXPECT_LT(cost.estimate(1), 1.2);
  for (int i = 0; i < 10; ++i) cost.saw(5, 1.5);
  EXPECT_NEAR(cost.estimate(5), 1.5, 0.01);
}

TEST(Acceptance, CountsEveryDraftAndLearnsFromThoseThatWereJudged) {
  Acceptance a(3);
  const double before = a.rate(2);
  a.saw(3, 1);
  EXPECT_EQ(a.counts()[0].accepted, 1);
  EXPECT_EQ(a.counts()[1].accepted, 0);
  EXPECT_EQ(a.counts()[2].drafted, 1);
  EXPECT_GT(a.rate(0), before);
  EXPECT_LT(a.rate(1), before);
  EXPECT_EQ(a.rate(2), before);
  EXPECT_EQ(a.fresh().counts()[0].drafted, 0);
  EXPECT_EQ(a.fresh().rate(0), a.rate(0));
}

}  // namespace
}  // namespace m3
