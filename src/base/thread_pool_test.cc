#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace m3 {
namespace {

TEST(ThreadPool, CoversEveryIndexOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (std::int64_t count : {0, 1, 2, 7, 100, 1001}) {
      for (std::int64_t grain : {1, 3, 64}) {
        std::vector<int> hits(static_cast<std::size_t>(count), 0);
        pool.parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end) {
          EXPECT_EQ(begin % grain, 0);
          EXPECT_LE(end - begin, grain);
          for (auto i = begin; i < end; ++i) ++hits[static_cast<std::size_t>(i)];
        });
        for (int hit : hits) EXPECT_EQ(hit, 1);
      }
    }
  }
}

TEST(ThreadPool, ManyShortLoops) {
  ThreadPool pool(3);
  std::atomic<std::int64_t> sum{0};
  for (int loop = 0; loop < 3000; ++loop)
    pool.parallel_for(8, 1, [&](std::int64_t begin, std::int64_t) { sum += begin; });
  EXPECT_EQ(sum.load(), 3000 * 28);
}

}  // namespace
}  // namespace m3
