#include "model/cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace m3 {
namespace {

constexpr CacheFormat kBf16Pairs{DType::kBF16, DType::kBF16, PageOrder::kPairs};
constexpr CacheFormat kFp8Pairs{DType::kF8E4M3, DType::kF8E4M3, PageOrder::kPairs};

Config small() {
  Config config;
  config.layers = 3;
  config.kv_heads = 2;
  config.head_dim = 24;
  config.index_dim = 40;
  config.block_tokens = 16;
  config.sparse_layers = {true, false, true};
  return config;
}

// Every (page, layer, head) and every (page, sparse layer) owns its bytes alone, 4 KiB aligned.
TEST(PagedCache, UnitsAreAlignedAndDisjoint) {
  const Config config = small();
  auto cache = PagedCache::create(config, kBf16Pairs, 3);
  ASSERT_TRUE(cache);
  std::vector<std::pair<const std::byte*, std::int64_t>> units;
  for (std::int64_t page = 0; page < 3; ++page) {
    for (std::int64_t layer = 0; layer < 3; ++layer) {
      for (std::int64_t head = 0; head < 2; ++head) {
        const PagePart keys = cache->kv(layer).keys(page, head);
        const PagePart values = cache->kv(layer).values(page, head);
        EXPECT_EQ(values.data - keys.data, keys.bytes());
        units.emplace_back(keys.data, keys.bytes() + values.bytes());
      }
    }
    for (const std::int64_t layer : {0, 2}) {
      const PagePart keys = cache->index(layer).keys(page);
      units.emplace_back(keys.data, keys.bytes());
    }
  }
  std::sort(units.begin(), units.end());
  for (std::size_t i = 0; i < units.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(units[i].first) % 4096, 0u);
    if (i > 0) {
      EXPECT_GE(units[i].first - units[i - 1].first, units[i - 1].second);
    }
  }
}

// spec: text-model §5.2: 2,304 bytes a module and token. Modules are layers behind the model's.
TEST(PagedCache, MtpModulesAreLayersMore) {
  const Config config = small();
  const PageBytes without = page_bytes(config, kBf16Pairs);
  const PageBytes with = page_bytes(config, kBf16Pairs, 2);
  EXPECT_EQ(with.kv, without.kv / 3 * 5);
  EXPECT_EQ(with.index, without.index * 2);
  const auto cache = PagedCache::create(config, kBf16Pairs, 2, 2);
  ASSERT_TRUE(cache);
  for (const std::int64_t layer : {3, 4}) {
    EXPECT_EQ(cache->kv(layer).base - cache->kv(layer - 1).base, without.kv / 3);
    EXPECT_EQ(cache->index(layer).base - cache->index(2).base, (layer - 2) * without.index / 2);
  }
  EXPECT_EQ(cache->kv(4).page_stride, with.kv);
  EXPECT_EQ(cache->index(4).page_stride, with.index);
}

// spec: text-model §4: 122,880 + 14,592 bytes a token for the released model in bfloat16, half of
// that in fp8.
TEST(PagedCache, ReleasedModelTakesWhatTheSpecificationSays) {
  Config config;
  config.layers = 60;
  config.kv_heads = 4;
  config.head_dim = config.index_dim = config.block_tokens = 128;
  config.sparse_layers.assign(60, true);
  for (std::size_t i = 0; i < 3; ++i) config.sparse_layers[i] = false;
  const PageBytes bytes = page_bytes(config, kBf16Pairs);
  EXPECT_EQ(bytes.kv, 128 * 122880);
  EXPECT_EQ(bytes.index, 128 * 14592);
  EXPECT_EQ(page_bytes(config, kBf16Pairs, 1).total() - bytes.total(), 128 * 2304);
  EXPECT_EQ(page_bytes(config, {}).total(), 2 * bytes.total());
  EXPECT_EQ(page_bytes(config, kFp8Pairs).total(), bytes.total() / 2);
}

}  // namespace
}  // namespace m3
