#include "model/work.h"

#include <gtest/gtest.h>

#include <numeric>

#include "model/test_model.h"

namespace m3 {
namespace {

constexpr CacheFormat kCache{.kv = DType::kBF16, .index = DType::kF8E4M3};

// `rows` of one sequence, the first at `slot`; the last one wants logits.
Batch batch_of(const Config& c, std::int64_t slot, std::int64_t rows) {
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(rows), 1);
  std::vector<std::int32_t> pages(static_cast<std::size_t>((slot + rows - 1) / c.block_tokens + 1));
  std::iota(pages.begin(), pages.end(), 0);
  Batch batch;
  batch.add_sequence(ids, slot, pages, /*all_outputs=*/false);
  batch.want_last();
  return batch;
}

class WorkTest : public testing::Test {
 protected:
  Work count(std::int64_t slot, std::int64_t rows) const {
    return count_work(config_, weights_, batch_of(config_, slot, rows), picked_, kCache);
  }

  const Config config_ = parse_config(tiny_config().dump(), "config.json").value();
  const Weights weights_ = empty_weights(config_);
  // No experts: these weights have no data.
  const std::vector<std::int64_t> picked_ = std::vector<std::int64_t>(3, 0);
};

TEST_F(WorkTest, ADecodedTokenReadsWhatItSees) {
  const Work work = count(/*slot=*/9, /*rows=*/1);
  const std::int64_t row = 2 * config_.kv_heads * config_.head_dim * 2;  // K and V in bfloat16
  EXPECT_EQ(work[Stage::kAttention].bytes, 3 * 10 * row);
  EXPECT_EQ(work[Stage::kIndex].bytes, 0);  // every block is selected
  EXPECT_EQ(work[Stage::kIndex].flops, 0);
  EXPECT_EQ(work.bytes(), work[Stage::kAttention].bytes);
}

TEST_F(WorkTest, BeyondItsBlocksATokenRanksThemAll) {
  const std::int64_t tokens = 4 * config_.selection.topk * config_.block_tokens;
  const Work work = count(tokens - 1, 1);
  const std::int64_t keys = 2 * tokens;                            // two sparse layers
  EXPECT_EQ(work[Stage::kIndex].bytes, keys * config_.index_dim);  // e4m3
  EXPECT_EQ(work[Stage::kIndex].flops, keys * 2 * config_.index_heads * config_.index_dim);
  EXPECT_EQ(work.bytes(), work[Stage::kAttention].bytes + work[Stage::kIndex].bytes);
}

TEST_F(WorkTest, BeyondItsBlocksASparseLayerReadsNoMore) {
  const std::int64_t far = 4 * config_.selection.topk * config_.block_tokens;
  const Work near = count(far - 1, 1), twice = count(2 * far - 1, 1);
  const std::int64_t row = 2 * config_.kv_heads * config_.head_dim * 2;
  EXPECT_EQ(twice[Stage::kAttention].bytes - near[Stage::kAttention].bytes, far * row);
}

// The rows of a step share what they read; every row multiplies.
TEST_F(WorkTest, RowsOfASequenceReadOnceAndMultiplyEach) {
  const Work together = count(0, 8), last = count(7, 1);
  Work apart;
  for (std::int64_t slot = 0; slot < 8; ++slot) apart += count(slot, 1);
  for (const Stage stage : {Stage::kAttention, Stage::kIndex}) {
    EXPECT_EQ(together[stage].bytes, last[stage].bytes);
    EXPECT_EQ(together[stage].flops, apart[stage].flops);
  }
}

}  // namespace
}  // namespace m3
