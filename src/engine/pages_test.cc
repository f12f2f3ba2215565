#include "engine/pages.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

TEST(PageAllocator, HandsOutTheLowestFirstAndAllOrNothing) {
  PageAllocator pages(5);
  std::vector<std::int32_t> a, b;
  ASSERT_TRUE(pages.allocate(2, a));
  ASSERT_TRUE(pages.allocate(2, b));
  EXPECT_EQ(a, (std::vector<std::int32_t>{0, 1}));
  EXPECT_EQ(b, (std::vector<std::int32_t>{2, 3}));
  EXPECT_FALSE(pages.allocate(2, b));
  EXPECT_EQ(b.size(), 2u);
  pages.release(a);
  EXPECT_TRUE(a.empty());
  EXPECT_EQ(pages.free_pages(), 3);
  ASSERT_TRUE(pages.allocate(3, b));
  EXPECT_EQ(b, (std::vector<std::int32_t>{2, 3, 0, 1, 4}));
}

TEST(PageAllocator, ReleasesFromTheEnd) {
  PageAllocator pages(4);
  std::vector<std::int32_t> a;
  ASSERT_TRUE(pages.allocate(4, a));
  pages.release(a, 1);
  EXPECT_EQ(a, (std::vector<std::int32_t>{0}));
  EXPECT_EQ(pages.free_pages(), 3);
}

}  // namespace
}  // namespace m3
