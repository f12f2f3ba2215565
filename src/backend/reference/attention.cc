// Causal attention over a paged cache (spec: text-model §3.6).
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/dot.h"
#include "backend/reference/head_norm.h"
#include "backend/reference/paging.h"
#include "backend/reference/reference_backend.h"
#include "backend/reference/reference_gradients.h"
#include "ops/arguments.h"

namespace m3::reference {
namespace {

// The tokens that one row attends to within one page.
struct PageTokens {
  std::int64_t page;
  std::int64_t tokens;      // the first of the page
  std::int64_t first_slot;  // of the page
};

// The visible blocks, or those of them that `list` [topk] names; -1 names none.
std::vector<PageTokens> attended_pages(const VisibleBlocks& visible, const std::int32_t* list,
                                       std::int64_t topk) {
  std::vector<PageTokens> pages;
  const auto add = [&](std::int64_t block) {
    pages.push_back({visible.page(block), visible.tokens(block), visible.first_slot(block)});
  };
  if (list == nullptr) {
    for (std::int64_t b = 0; b < visible.count(); ++b) add(b);
    return pages;
  }
  for (std::int64_t i = 0; i < topk; ++i)
    if (list[i] >= 0) add(list[i]);
  return pages;
}

// Turns scores into probabilities; returns the log of the sum of their exponentials. Where there is
// no score, or a mask hides all, there is no probability either.
double softmax(std::span<double> scores) {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  double largest = kNone;
  for (double score : scores) largest = std::max(largest, score);
  if (largest == kNone) {
    // A NaN is no maximum, and is to be seen.
    for (double& score : scores) score = score == kNone ? 0 : score;
    return kNone;
  }
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (double& score : scores) score /= sum;
  return largest + std::log(sum);
}

double bias_at(const float* bias, std::int64_t slot) {
  return bias == nullptr ? 0 : bias[slot];
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

  // q, out [heads, head_dim]; bias by slot, or null; log_sums [heads], or null.
  void run(const std::vector<PageTokens>& pages, const float* q, float scale, const float* bias,
           float* out, float* log_sums) {
    tokens_ = 0;
    for (const PageTokens& p : pages) tokens_ += p.tokens;
    score(pages, q, scale, bias);
    for (std::int64_t h = 0; h < heads_; ++h) {
      const double sum = softmax({probabilities_of(h), static_cast<std::size_t>(tokens_)});
      if (log_sums != nullptr) log_sums[h] = static_cast<float>(sum);
    }
    mix(pages, out);
  }

 private:
  double* probabilities_of(std::int64_t head) { return probabilities_.data() + head * tokens_; }

  void score(const std::vector<PageTokens>& pages, const float* q, float scale, const float* bias) {
    probabilities_.resize(static_cast<std::size_t>(heads_ * tokens_));
    std::int64_t token = 0;
    for (const PageTokens& p : pages) {
      const PagePart keys = cache_.keys(p.page, kv_head_);
      for (std::int64_t t = 0; t < p.tokens; ++t, ++token) {
        const float* key = cached_row(keys, t, scratch_.data());
        for (std::int64_t h = 0; h < heads_; ++h)
          probabilities_of(h)[token] = scale * dot(q + h * cache_.head_dim, key, cache_.head_dim) +
                                       bias_at(bias, p.first_slot + t);
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
                                 float scale, const Tensor* blocks, const Tensor& out,
                                 const Tensor& log_sums) {
  expect_cache("attention: cache", cache);
  expect_rank("attention: q", q, 2);
  const std::int64_t count = q.dim(0), width = q.dim(1), kv_heads = cache.kv_heads;
  M3_CHECK(width % (kv_heads * cache.head_dim) == 0,
           "attention: rows of {} do not share {} K/V heads of {}", width, kv_heads,
           cache.head_dim);
  expect_tensor("attention: out", out, DType::kF32, {count, width});
  if (log_sums)
    expect_tensor("attention: log_sums", log_sums, DType::kF32, {count, width / cache.head_dim});
  expect_rows("attention: rows", rows, count);
  const std::int64_t topk = blocks ? blocks->dim(2) : 0;
  if (blocks) expect_tensor("attention: blocks", *blocks, DType::kI32, {count, kv_heads, topk});

  const std::int64_t group_width = width / kv_heads;
  const Rows seen = rows.seen_by(blocks);
  pool_.parallel_for(count * kv_heads, 1, [&](std::int64_t task, std::int64_t) {
    const std::int64_t row = task / kv_heads, kv_head = task % kv_heads;
    const VisibleBlocks visible(seen, row, cache.page_tokens);
    const std::int32_t* list = blocks ? blocks->row<std::int32_t>(row) + kv_head * topk : nullptr;
    GroupAttention group(cache, kv_head, group_width / cache.head_dim);
    group.run(
        attended_pages(visible, list, topk), q.row<float>(row) + kv_head * group_width, scale,
        rows.bias_of(row), out.row<float>(row) + kv_head * group_width,
        log_sums ? log_sums.row<float>(row) + kv_head * (group_width / cache.head_dim) : nullptr);
  });
}

namespace {

// One sequence and one K/V head, with the query heads that read it.
class SequenceGradient {
 public:
  SequenceGradient(const KvView& cache, std::int64_t kv_head, std::int64_t first_row,
                   std::int64_t tokens)
      : cache_(cache),
        kv_head_(kv_head),
        first_row_(first_row),
        d_keys_(static_cast<std::size_t>(tokens * cache.head_dim), 0.0),
        d_values_(d_keys_.size(), 0.0),
        key_(static_cast<std::size_t>(cache.head_dim)),
        value_(key_.size()) {}

  // A query head of one row. bias by slot, or null; q, out, d_out, d_q [head_dim].
  void add(const std::vector<PageTokens>& pages, float scale, const float* bias, const float* q,
           const float* out, const float* d_out, float* d_q) {
    const std::int64_t dim = cache_.head_dim;
    std::vector<double> probabilities;
    for (const PageTokens& p : pages)
      for (std::int64_t t = 0; t < p.tokens; ++t)
        probabilities.push_back(scale * dot(q, key(p, t), dim) + bias_at(bias, p.first_slot + t));
    softmax(probabilities);
    const double delta = dot(d_out, out, dim);
    std::vector<double> d_query(static_cast<std::size_t>(dim), 0.0);
    std::size_t token = 0;
    for (const PageTokens& p : pages) {
      for (std::int64_t t = 0; t < p.tokens; ++t, ++token) {
        const double probability = probabilities[token];
        const double d_score = probability * (dot(d_out, value(p, t), dim) - delta) * scale;
        const float* k = key(p, t);
        double* d_key = d_keys_.data() + (p.first_slot + t) * dim;
        double* d_value = d_values_.data() + (p.first_slot + t) * dim;
        for (std::int64_t i = 0; i < dim; ++i) {
          d_query[static_cast<std::size_t>(i)] += d_score * k[i];
          d_key[i] += d_score * q[i];
          d_value[i] += probability * d_out[i];
        }
      }
    }
    for (std::int64_t i = 0; i < dim; ++i)
      d_q[i] = static_cast<float>(d_query[static_cast<std::size_t>(i)]);
  }

  // Into this head's columns of d_k and d_v.
  void store(const Tensor& d_k, const Tensor& d_v) const {
    const std::int64_t dim = cache_.head_dim;
    for (std::size_t at = 0; at < d_keys_.size(); ++at) {
      const auto token = static_cast<std::int64_t>(at) / dim;
      const std::int64_t column = kv_head_ * dim + static_cast<std::int64_t>(at) % dim;
      d_k.row<float>(first_row_ + token)[column] = static_cast<float>(d_keys_[at]);
      d_v.row<float>(first_row_ + token)[column] = static_cast<float>(d_values_[at]);
    }
  }

 private:
  const float* key(const PageTokens& p, std::int64_t t) {
    return cached_row(cache_.keys(p.page, kv_head_), t, key_.data());
  }
  const float* value(const PageTokens& p, std::int64_t t) {
    return cached_row(cache_.values(p.page, kv_head_), t, value_.data());
  }

  const KvView& cache_;
  std::int64_t kv_head_, first_row_;
  std::vector<double> d_keys_, d_values_;  // [tokens, head_dim]
  std::vector<float> key_, value_;         // one each
};

}  // namespace

void ReferenceGradients::attention(const Tensor& q, const Rows& rows, const KvView& cache,
                                   float scale, const Tensor* blocks, const Tensor& out,
                                   const Tensor& /*log_sums*/, const Tensor& d_out,
                                   const Tensor& d_q, const Tensor& d_k, const Tensor& d_v) {
  expect_cache("attention gradient: cache", cache);
  expect_rank("attention gradient: q", q, 2);
  const std::int64_t count = q.dim(0), width = q.dim(1), dim = cache.head_dim;
  const std::int64_t kv_heads = cache.kv_heads, group_width = width / kv_heads;
  for (const Tensor& other : {out, d_out, d_q})
    expect_tensor("attention gradient: rows", other, DType::kF32, {count, width});
  for (const Tensor& other : {d_k, d_v})
    expect_tensor("attention gradient: d_k, d_v", other, DType::kF32, {count, kv_heads * dim});
  expect_rows("attention gradient: rows", rows, count);
  const std::int64_t topk = blocks ? blocks->dim(2) : 0;
  if (blocks)
    expect_tensor("attention gradient: blocks", *blocks, DType::kI32, {count, kv_heads, topk});

  const auto sequences = whole_sequences(rows);
  const Rows seen = rows.seen_by(blocks);
  pool_.parallel_for(std::ssize(sequences) * kv_heads, 1, [&](std::int64_t task, std::int64_t) {
    const auto [first, last] = sequences[static_cast<std::size_t>(task / kv_heads)];
    const std::int64_t kv_head = task % kv_heads;
    SequenceGradient gradient(cache, kv_head, first, last - first);
    for (std::int64_t row = first; row < last; ++row) {
      const VisibleBlocks visible(seen, row, cache.page_tokens);
      const std::int32_t* list = blocks ? blocks->row<std::int32_t>(row) + kv_head * topk : nullptr;
      const auto pages = attended_pages(visible, list, topk);
      for (std::int64_t at = kv_head * group_width; at < (kv_head + 1) * group_width; at += dim)
        gradient.add(pages, scale, rows.bias_of(row), q.row<float>(row) + at,
                     out.row<float>(row) + at, d_out.row<float>(row) + at,
                     d_q.row<float>(row) + at);
    }
    gradient.store(d_k, d_v);
  });
}

}  // namespace m3::reference
