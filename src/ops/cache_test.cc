#include "ops/cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

namespace m3 {
namespace {

// Every number has a place of its own within what the part takes, whatever the sizes.
TEST(PagePart, PlacesAreDistinct) {
  for (const PageOrder order : {PageOrder::kRows, PageOrder::kPairs})
    for (const bool values : {false, true})
      for (const std::int64_t tokens : {1, 4, 16, 80, 128, 200})
        for (const std::int64_t dim : {1, 7, 24, 128}) {
          const PagePart part{nullptr, DType::kBF16, order, values, tokens, dim};
          std::set<std::int64_t> places;
          for (std::int64_t t = 0; t < tokens; ++t)
            for (std::int64_t i = 0; i < dim; ++i) places.insert(part.place(t, i));
          EXPECT_EQ(std::ssize(places), tokens * dim);
          EXPECT_GE(*places.begin(), 0);
          EXPECT_LT(*places.rbegin(), part.elements()) << tokens << " x " << dim;
        }
}

// What a product sums over lies in pairs, its outputs side by side in panels of 64.
TEST(PagePart, PairsAsTheKernelsReadThem) {
  const PagePart keys{nullptr, DType::kBF16, PageOrder::kPairs, false, 128, 128};
  EXPECT_EQ(keys.place(0, 1), 1);
  EXPECT_EQ(keys.place(1, 0), 2);
  EXPECT_EQ(keys.place(0, 2), 128);
  EXPECT_EQ(keys.place(64, 0), 128 * 64);
  EXPECT_EQ(keys.elements(), 128 * 128);
  const PagePart values{nullptr, DType::kBF16, PageOrder::kPairs, true, 128, 128};
  EXPECT_EQ(values.place(1, 0), 1);
  EXPECT_EQ(values.place(0, 1), 2);
}

TEST(PagePart, RoundsToItsType) {
  std::vector<std::byte> bytes(4 * 16 * 8);
  PagePart part{bytes.data(), DType::kF32, PageOrder::kPairs, true, 4, 8};
  const float x = 0.3f, nan = std::numeric_limits<float>::quiet_NaN();
  part.set(3, 5, x);
  EXPECT_EQ(part.get(3, 5), x);
  part.dtype = DType::kBF16;
  part.set(3, 5, x);
  EXPECT_EQ(part.get(3, 5), round_to_bf16(x));
  part.dtype = DType::kF8E4M3;
  part.set(3, 5, x);
  EXPECT_EQ(part.get(3, 5), 0.3125f);
  part.set(3, 5, -1e9f);
  EXPECT_EQ(part.get(3, 5), -448);
  part.set(3, 5, nan);
  EXPECT_TRUE(std::isnan(part.get(3, 5)));
}

}  // namespace
}  // namespace m3
