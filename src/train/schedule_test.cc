#include "train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace m3 {
namespace {

// Spec: training §8.2, with a warm-up of 10 of 100 steps.
Schedule schedule(Decay decay) {
  return {.decay = decay, .rate = 1e-4, .least = 1e-6, .warmup = 10, .steps = 100, .falling = 20};
}

TEST(Schedule, RisesFromATenth) {
  for (const Decay decay :
       {Decay::kConstant, Decay::kLinear, Decay::kCosine, Decay::kWarmupStableDecay}) {
    EXPECT_DOUBLE_EQ(schedule(decay).at(0), 1e-5);
    EXPECT_DOUBLE_EQ(schedule(decay).at(5), 5.5e-5);
    EXPECT_DOUBLE_EQ(schedule(decay).at(10), 1e-4);
  }
}

TEST(Schedule, FallsAsItsNameSays) {
  EXPECT_DOUBLE_EQ(schedule(Decay::kConstant).at(99), 1e-4);
  EXPECT_DOUBLE_EQ(schedule(Decay::kLinear).at(55), (1e-4 + 1e-6) / 2);
  EXPECT_DOUBLE_EQ(schedule(Decay::kCosine).at(55), (1e-4 + 1e-6) / 2);
  EXPECT_DOUBLE_EQ(schedule(Decay::kCosine).at(25),
                   1e-6 + (1e-4 - 1e-6) * (1 + std::cos(std::numbers::pi / 6)) / 2);
  EXPECT_DOUBLE_EQ(schedule(Decay::kWarmupStableDecay).at(80), 1e-4);
  EXPECT_DOUBLE_EQ(schedule(Decay::kWarmupStableDecay).at(90), (1e-4 + 1e-6) / 2);
  for (const Decay decay : {Decay::kLinear, Decay::kCosine, Decay::kWarmupStableDecay}) {
    EXPECT_DOUBLE_EQ(schedule(decay).at(100), 1e-6);
    EXPECT_DOUBLE_EQ(schedule(decay).at(1000), 1e-6);
  }
}

TEST(Schedule, OfOneStepWithoutWarmupBeginsAtItsRate) {
  for (const Decay decay :
       {Decay::kConstant, Decay::kLinear, Decay::kCosine, Decay::kWarmupStableDecay})
    EXPECT_DOUBLE_EQ((Schedule{.decay = decay, .rate = 0.1, .steps = 1}).at(0), 0.1);
}

}  // namespace
}  // namespace m3
