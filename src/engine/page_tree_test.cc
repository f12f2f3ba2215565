#include "engine/page_tree.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

std::vector<PageText> texts(const std::string& pages) {
  std::vector<PageText> all;
  for (const char c : pages) all.push_back(PageText({c}));
  return all;
}

// A lease of pages that hold `pages`, as far as they are there already, and are stored.
PageLease lease_of(PageTree& tree, const std::string& pages) {
  PageLease lease;
  const auto all = texts(pages);
  tree.take(all, lease);
  EXPECT_TRUE(tree.grow(lease, std::ssize(all) - std::ssize(lease.pages)));
  while (lease.shared < std::ssize(all))
    tree.store(lease, all[static_cast<std::size_t>(lease.shared)]);
  return lease;
}

TEST(PageTree, HandsOutTheLowestFirstAndAllOrNothing) {
  PageTree tree(5);
  PageLease a, b;
  ASSERT_TRUE(tree.grow(a, 2));
  ASSERT_TRUE(tree.grow(b, 2));
  EXPECT_EQ(a.pages, (std::vector<std::int32_t>{0, 1}));
  EXPECT_EQ(b.pages, (std::vector<std::int32_t>{2, 3}));
  EXPECT_FALSE(tree.grow(b, 2));
  EXPECT_EQ(b.pages.size(), 2u);
  tree.release(a);
  EXPECT_TRUE(a.pages.empty());
  EXPECT_EQ(tree.available(), 3);
}

TEST(PageTree, SharesWhatBeginsAlike) {
  PageTree tree(10);
  PageLease abc = lease_of(tree, "abc"), abd = lease_of(tree, "abd");
  EXPECT_EQ(abd.pages[0], abc.pages[0]);
  EXPECT_EQ(abd.pages[1], abc.pages[1]);
  EXPECT_NE(abd.pages[2], abc.pages[2]);
  EXPECT_EQ(tree.available(), 6);
  EXPECT_EQ(tree.held_alone(abc), 1);
  // The same text under another beginning is another page.
  EXPECT_EQ(tree.find(texts("bc")).pages, 0);
  EXPECT_EQ(tree.find(texts("abx")).pages, 2);
  EXPECT_EQ(tree.find(texts("abc")).idle, 0);
  tree.release(abc);
  EXPECT_EQ(tree.find(texts("abc")).pages, 3);
  EXPECT_EQ(tree.find(texts("abc")).idle, 1);
}

TEST(PageTree, TwoWhoComputedTheSamePageKeepOne) {
  PageTree tree(4);
  PageLease a, b;
  ASSERT_TRUE(tree.grow(a, 1));
  ASSERT_TRUE(tree.grow(b, 2));
  tree.store(a, PageText({7}));
  tree.store(b, PageText({7}));
  EXPECT_EQ(a.pages[0], b.pages[0]);
  EXPECT_EQ(tree.available(), 2);
  tree.release(a);
  EXPECT_EQ(tree.find(texts("\7")).idle, 0);
}

TEST(PageTree, DropsWhatNobodyHasHeldForLongestAndLeavesFirst) {
  PageTree tree(6);
  PageLease first = lease_of(tree, "abc"), second = lease_of(tree, "xyz");
  tree.release(second);
  tree.release(first);
  EXPECT_EQ(tree.available(), 6);
  PageLease other;
  ASSERT_TRUE(tree.grow(other, 2));  // z, then y
  EXPECT_EQ(tree.find(texts("xyz")).pages, 1);
  EXPECT_EQ(tree.find(texts("abc")).pages, 3);
  PageLease again;
  tree.take(texts("a"), again);
  ASSERT_TRUE(tree.grow(other, 3));  // x, c, b: a is held
  EXPECT_EQ(tree.find(texts("abc")).pages, 1);
  EXPECT_FALSE(tree.grow(other, 1));
}

TEST(PageTree, ClearLeavesWhatIsHeld) {
  PageTree tree(4);
  PageLease ab = lease_of(tree, "ab"), ac = lease_of(tree, "ac");
  tree.release(ac);
  tree.clear();
  EXPECT_EQ(tree.kept_pages(), 2);
  EXPECT_EQ(tree.find(texts("ac")).pages, 1);
  tree.release(ab);
  tree.clear();
  EXPECT_EQ(tree.free_pages(), 4);
}

}  // namespace
}  // namespace m3
