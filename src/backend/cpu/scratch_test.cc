#include "backend/cpu/scratch.h"

#include <gtest/gtest.h>

#include <cstring>

namespace m3::cpu {
namespace {

TEST(OpScratch, GrowsAndStays) {
  OpScratch scratch;
  float* first = scratch.take<float>(1000);
  first[999] = 1;
  EXPECT_EQ(scratch.take<float>(1000), first);
  EXPECT_EQ(scratch.take<float>(10), first);
  scratch.take<float>(100000)[99999] = 1;
}

TEST(TaskScratch, EveryTaskHasItsOwnSlice) {
  ThreadPool pool(4);
  TaskScratch scratch(pool.threads());
  scratch.reserve(TaskScratch::bytes_for<std::uint8_t>(100) + TaskScratch::bytes_for<int>(5000));
  std::atomic<int> disturbed{0};
  for_each_task(pool, 500, [&](std::int64_t task) {
    TaskScratch::Slice slice(scratch);
    slice.take<std::uint8_t>(100);
    int* mine = slice.take<int>(5000);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(mine) % 64, 0u);
    std::fill_n(mine, 5000, static_cast<int>(task));
    disturbed += static_cast<int>(5000 - std::count(mine, mine + 5000, static_cast<int>(task)));
  });
  EXPECT_EQ(disturbed, 0);
}

TEST(TaskScratchDeathTest, TakingMoreThanReservedIsOurMistake) {
  TaskScratch scratch(1);
  scratch.reserve(64);
  TaskScratch::Slice slice(scratch);
  slice.take<float>(16);
  EXPECT_DEATH(slice.take<float>(2000), "a task takes");
}

}  // namespace
}  // namespace m3::cpu
