// Causal attention over a paged cache (spec: text-model §3.6).
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/dot.h"
#include "backend/reference/head_norm.h"
#include "backend/reference/paging.h"
#include "backend/reference/reference_backend.h"
#include "ops/arguments.h"

namespace m3::reference {
namespace {

// The tokens that one row attends to within one page.
struct PageTokens {
  std::int64_t page;
  std::int64_t tokens;  // the first of the page
};

// The visible blocks, or those of them that `list` [topk] names; -1 names none.
std::vector<PageTokens> attended_pages(const VisibleBlocks& visible, const std::int32_t* list,
                                       std::int64_t topk) {
  std::vector<PageTokens> pages;
  if (list == nullptr) {
    for (std::int64_t b = 0; b < visible.count(); ++b)
      pages.push_back({visible.page(b), visible.tokens(b)});
    return pages;
  }
  for (std::int64_t i = 0; i < topk; ++i)
    if (list[i] >= 0) pages.push_back({visible.page(list[i]), visible.tokens(list[i])});
  return pages;
}

// Turns scores into probabilities.
void softmax(std::span<double> scores) {
  double largest = -std::numeric_limits<double>::infinity();
  for (double score : scores) largest = std::max(largest, score);
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (double& score : scores) score /= sum;
}

// One row and one K/V head with the query heads that read it. Every key and value is read once for
// all of them.
class GroupAttention {
 public:
  GroupAttention(const KvView& cache, std::int64_t kv_head, std::int64_t heads)
      : cache_(cache),
        kv_head_(kv_head),
        heads_(heads),
        scratch_(static_cast<std::size_t>(cache.head_dim)) {}

  // q, out [heads, head_dim].
  void run(const std::vector<PageTokens>& pages, const float* q, float scale, float* out) {
    tokens_ = 0;
    for (const PageTokens& p : pages) tokens_ += p.tokens;
    score(pages, q, scale);
    for (std::int64_t h = 0; h < heads_; ++h)
      softmax({probabilities_of(h), static_cast<std::size_t>(tokens_)});
    mix(pages, out);
  }

 private:
  double* probabilities_of(std::int64_t head) { return probabilities_.data() + head * tokens_; }

  void score(const std::vector<PageTokens>& pages, const float* q, float scale) {
    probabilities_.resize(static_cast<std::size_t>(heads_ * tokens_));
    std::int64_t token = 0;
    for (const PageTokens& p : pages) {
      const PagePart keys = cache_.keys(p.page, kv_head_);
      for (std::int64_t t = 0; t < p.tokens; ++t, ++token) {
        const float* key = cached_row(keys, t, scratch_.data());
        for (std::int64_t h = 0; h < heads_; ++h)
          probabilities_of(h)[token] = scale * dot(q + h * cache_.head_dim, key, cache_.head_dim);
      }
    }
  }

  // out[h] = Σ probability * value, and zero if there is no token.
  void mix(const std::vector<PageTokens>& pages, float* out) {
    const std::int64_t dim = cache_.head_dim;
    std::vector<double> sums(static_cast<std::size_t>(heads_ * dim), 0.0);
    std::int64_t token = 0;
    for (const PageTokens& p : pages) {
      const PagePart values = cache_.values(p.page, kv_head_);
      for (std::int64_t t = 0; t < p.tokens; ++t, ++token) {
        const float* value = cached_row(values, t, scratch_.data());
        for (std::int64_t h = 0; h < heads_; ++h) {
          const double probability = probabilities_of(h)[token];
          double* sum = sums.data() + h * dim;
          for (std::int64_t i = 0; i < dim; ++i) sum[i] += probability * value[i];
        }
      }
    }
    for (std::size_t i = 0; i < sums.size(); ++i) out[i] = static_cast<float>(sums[i]);
  }

  const KvView& cache_;
  std::int64_t kv_head_;
  std::int64_t heads_;
  std::int64_t tokens_ = 0;
  std::vector<float> scratch_;         // one key or value
  std::vector<double> probabilities_;  // [heads, tokens], scores at first
};

}  // namespace

void ReferenceBackend::store_kv(const Tensor& k, const Tensor& v, const HeadNorm& norm,
                                const Rows& rows, const KvView& cache) {
  const std::int64_t count = k.dim(0), dim = cache.head_dim;
  expect_cache("store_kv: cache", cache);
  expect_tensor("store_kv: k", k, DType::kF32, {count, cache.kv_heads * dim});
  expect_tensor("store_kv: v", v, DType::kF32, {count, cache.kv_heads * dim});
  expect_head_rotation("store_kv: norm", norm, count, dim);
  expect_rows("store_kv: rows", rows, count);
  pool_.parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
    HeadNormRope head(norm, dim);
    std::vector<float> key(static_cast<std::size_t>(dim));
    for (std::int64_t row = begin; row < end; ++row) {
      const VisibleBlocks visible(rows, row, cache.page_tokens);
      const std::int64_t page = visible.page(visible.slot() / cache.page_tokens);
      const std::int64_t index = visible.slot() % cache.page_tokens;
      for (std::int64_t h = 0; h < cache.kv_heads; ++h) {
        head.apply(k.row<float>(row) + h * dim, row, key.data());
        store_cached_row(key.data(), cache.keys(page, h), index);
        store_cached_row(v.row<float>(row) + h * dim, cache.values(page, h), index);
      }
    }
  });
}

void ReferenceBackend::attention(const Tensor& q, const Rows& rows, const KvView& cache,
                                 float scale, const Tensor* blocks, const Tensor& out) {
  expect_cache("attention: cache", cache);
  expect_rank("attention: q", q, 2);
  const std::int64_t count = q.dim(0), width = q.dim(1), kv_heads = cache.kv_heads;
  M3_CHECK(width % (kv_heads * cache.head_dim) == 0,
           "attention: rows of {} do not share {} K/V heads of {}", width, kv_heads,
           cache.head_dim);
  expect_tensor("attention: out", out, DType::kF32, {count, width});
  expect_rows("attention: rows", rows, count);
  const std::int64_t topk = blocks ? blocks->dim(2) : 0;
  if (blocks) expect_tensor("attention: blocks", *blocks, DType::kI32, {count, kv_heads, topk});

  const std::int64_t group_width = width / kv_heads;
  pool_.parallel_for(count * kv_heads, 1, [&](std::int64_t task, std::int64_t) {
    const std::int64_t row = task / kv_heads, kv_head = task % kv_heads;
    const VisibleBlocks visible(rows, row, cache.page_tokens);
    const std::int32_t* list = blocks ? blocks->row<std::int32_t>(row) + kv_head * topk : nullptr;
    GroupAttention group(cache, kv_head, group_width / cache.head_dim);
    group.run(attended_pages(visible, list, topk), q.row<float>(row) + kv_head * group_width, scale,
              out.row<float>(row) + kv_head * group_width);
  });
}

}  // namespace m3::reference
