#include "data/epoch_order.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace m3 {
namespace {

using Order = std::vector<std::int64_t>;

TEST(EpochOrder, HoldsEverySampleOnce) {
  for (const std::int64_t count : {0, 1, 2, 7, 1000}) {
    Order order = epoch_order(count, 42, 3);
    ASSERT_EQ(std::ssize(order), count);
    std::ranges::sort(order);
    for (std::int64_t i = 0; i < count; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
  }
}

// A resumed run on another machine must see the same samples: these numbers stay.
TEST(EpochOrder, IsTheSameEverywhere) {
  EXPECT_EQ(epoch_order(8, 0, 0), (Order{3, 0, 5, 4, 7, 2, 1, 6}));
  EXPECT_EQ(epoch_order(8, 0, 1), (Order{3, 6, 7, 4, 5, 1, 0, 2}));
  EXPECT_EQ(epoch_order(8, 1, 0), (Order{6, 3, 0, 4, 2, 1, 5, 7}));
}

// Each sample comes to each place about equally often.
TEST(EpochOrder, PrefersNoPlace) {
  constexpr std::int64_t kCount = 6, kEpochs = 6000;
  std::vector<int> seen(kCount * kCount);
  for (std::uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    const Order order = epoch_order(kCount, 5, epoch);
    for (std::int64_t place = 0; place < kCount; ++place)
      ++seen[static_cast<std::size_t>(place * kCount + order[static_cast<std::size_t>(place)])];
  }
  // Binomial: 1000 expected, a standard deviation of 29.
  for (const int times : seen) EXPECT_NEAR(times, 1000, 150);
}

}  // namespace
}  // namespace m3
