#include "engine/prefill_pace.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

// A step takes 0.3 s, and a row of a prompt adds 10 ms.
double step_seconds(std::int64_t rows) {
  return 0.3 + 0.01 * static_cast<double>(rows);
}

TEST(PrefillPace, FindsTheRowsThatTheTimeHolds) {
  PrefillPace pace(0.5, 16, 2048);
  EXPECT_EQ(pace.rows(), 16);
  pace.saw_step(0, step_seconds(0));
  for (int i = 0; i < 40; ++i) pace.saw_step(pace.rows(), step_seconds(pace.rows()));
  EXPECT_NEAR(static_cast<double>(pace.rows()), 50, 3);
}

TEST(PrefillPace, StaysBetweenItsBounds) {
  PrefillPace slow(0.5, 16, 2048), fast(0.5, 16, 2048);
  slow.saw_step(16, 100);
  EXPECT_EQ(slow.rows(), 16);
  fast.saw_step(16, 1e-9);
  EXPECT_EQ(fast.rows(), 2048);
}

}  // namespace
}  // namespace m3
