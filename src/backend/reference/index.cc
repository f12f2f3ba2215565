// The lightning indexer (spec: text-model §3.5).
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "backend/reference/dot.h"
#include "backend/reference/head_norm.h"
#include "backend/reference/paging.h"
#include "backend/reference/ranking.h"
#include "backend/reference/reference_backend.h"
#include "ops/arguments.h"

namespace m3::reference {
namespace {

constexpr float kInitKey = 1e30f;
constexpr float kLocalKey = 1e29f;
constexpr float kNanKey = -1e30f;

// The largest score, or the logarithm of Σ exp(score) (spec: text-model §3.5.4). A NaN among the
// scores makes the result NaN, in both ways of pooling. At least one score.
double pool_scores(std::span<const double> scores, ScoreType type) {
  double largest = -std::numeric_limits<double>::infinity();
  for (double score : scores) {
    if (std::isnan(score)) return score;
    largest = std::max(largest, score);
  }
  if (type == ScoreType::kMax || std::isinf(largest)) return largest;
  double sum = 0;
  for (double score : scores) sum += std::exp(score - largest);
  return largest + std::log(sum);
}

// Scores of the visible blocks for one index head of one row, rounded to float32.
class BlockScores {
 public:
  BlockScores(const IndexView& cache, const Selection& selection)
      : cache_(cache),
        selection_(selection),
        scratch_(static_cast<std::size_t>(cache.dim)),
        scores_(static_cast<std::size_t>(cache.page_tokens)) {}

  // None: `bias`, by slot, or null, hides the whole block.
  std::optional<float> score(const float* q, const VisibleBlocks& visible, const float* bias,
                             std::int64_t block) {
    const PagePart page = cache_.keys(visible.page(block));
    std::size_t count = 0;
    for (std::int64_t t = 0; t < visible.tokens(block); ++t) {
      if (bias != nullptr && std::isinf(bias[visible.first_slot(block) + t])) continue;
      const float* key = cached_row(page, t, scratch_.data());
      scores_[count++] = selection_.scale * dot(q, key, cache_.dim);
    }
    if (count == 0) return std::nullopt;
    return static_cast<float>(pool_scores({scores_.data(), count}, selection_.score_type));
  }

 private:
  const IndexView& cache_;
  const Selection& selection_;
  std::vector<float> scratch_;  // one key
  std::vector<double> scores_;  // [page_tokens]
};

struct Candidates {
  std::vector<std::int32_t> blocks;  // ascending
  std::vector<float> keys;           // by which each is ranked
};

// The visible blocks (spec: text-model §3.5.5, §3.5.6).
Candidates candidates(const float* q, const VisibleBlocks& visible, const float* bias,
                      const Selection& selection, BlockScores& scores) {
  const std::int64_t first_local = visible.count() - selection.local_blocks;
  Candidates found;
  for (std::int64_t b = 0; b < visible.count(); ++b) {
    const std::optional<float> score = scores.score(q, visible, bias, b);
    if (!score) continue;
    found.blocks.push_back(static_cast<std::int32_t>(b));
    found.keys.push_back(b >= first_local            ? kLocalKey
                         : b < selection.init_blocks ? kInitKey
                         : std::isnan(*score)        ? kNanKey
                                                     : *score);
  }
  return found;
}

}  // namespace

void ReferenceBackend::store_index(const Tensor& k, const HeadNorm& norm, const Rows& rows,
                                   const IndexView& cache) {
  expect_cache("store_index: cache", cache);
  expect_tensor("store_index: k", k, DType::kF32, {k.dim(0), cache.dim});
  expect_head_norm("store_index: norm", norm, k.dim(0), cache.dim);
  expect_rows("store_index: rows", rows, k.dim(0));
  pool_.parallel_for(k.dim(0), 1, [&](std::int64_t begin, std::int64_t end) {
    HeadNormRope head(norm, cache.dim);
    std::vector<float> key(static_cast<std::size_t>(cache.dim));
    for (std::int64_t row = begin; row < end; ++row) {
      const VisibleBlocks visible(rows, row, cache.page_tokens);
      head.apply(k.row<float>(row), row, key.data());
      const std::int64_t own = visible.slot() / cache.page_tokens;
      store_cached_row(key.data(), cache.keys(visible.page(own)),
                       visible.slot() % cache.page_tokens);
    }
  });
}

void ReferenceBackend::select_blocks(const Tensor& q, const Rows& rows, const IndexView& cache,
                                     const Selection& selection, const Tensor& blocks) {
  expect_cache("select_blocks: cache", cache);
  M3_CHECK(blocks.rank == 3, "select_blocks: blocks are {}", blocks.describe());
  const std::int64_t count = blocks.dim(0), heads = blocks.dim(1), topk = selection.topk;
  expect_tensor("select_blocks: blocks", blocks, DType::kI32, {count, heads, topk});
  expect_tensor("select_blocks: q", q, DType::kF32, {count, heads * cache.dim});
  expect_rows("select_blocks: rows", rows, count);
  pool_.parallel_for(count * heads, 1, [&](std::int64_t begin, std::int64_t end) {
    BlockScores scores(cache, selection);
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t row = task / heads, head = task % heads;
      const VisibleBlocks visible(rows, row, cache.page_tokens);
      const Candidates found = candidates(q.row<float>(row) + head * cache.dim, visible,
                                          rows.bias_of(row), selection, scores);
      std::int32_t* list = blocks.row<std::int32_t>(row) + head * topk;
      std::int32_t* next = list;
      for (const std::int32_t i : largest(found.keys, topk))
        *next++ = found.blocks[static_cast<std::size_t>(i)];
      std::fill(next, list + topk, -1);
    }
  });
}

}  // namespace m3::reference
