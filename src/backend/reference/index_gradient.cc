// How far the indexer's ranking of blocks is from what attention makes of them, and its derivative.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/dot.h"
#include "backend/reference/paging.h"
#include "backend/reference/ranking.h"
#include "backend/reference/reference_gradients.h"
#include "ops/arguments.h"

namespace m3::reference {
namespace {

// Turns scores into probabilities.
void softmax(std::span<double> scores) {
  const double largest = *std::ranges::max_element(scores);
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (double& score : scores) score /= sum;
}

struct DivergenceCall {
  const Tensor& index_q;
  const Rows& rows;
  const IndexView& index;
  const Selection& selection;
  const Tensor& blocks;
  const AttentionScores& attention;
  float scale;
  const RankingMeasures& measures;
  const Tensor& d_q;

  std::int64_t heads() const { return measures.divergences.dim(1); }
};

// One whole sequence and one index head, with the query heads whose attention it is to foresee.
class HeadDivergence {
 public:
  HeadDivergence(const DivergenceCall& call, std::int64_t head, std::int64_t first_row,
                 std::int64_t last_row)
      : call_(call), head_(head), first_row_(first_row), tokens_(last_row - first_row) {
    const VisibleBlocks all(call.rows, last_row - 1, call.index.page_tokens);
    for (std::int64_t b = 0; b < all.count(); ++b) {
      read(call.attention.cache.keys(all.page(b), head), all.tokens(b), keys_);
      read(call.index.keys(all.page(b)), all.tokens(b), index_keys_);
    }
    d_keys_.assign(index_keys_.size(), 0.0);
  }

  void run() {
    for (std::int64_t t = 0; t < tokens_; ++t) add_row(t);
  }

  // [tokens, index_dim], by the keys.
  const std::vector<double>& d_keys() const { return d_keys_; }

 private:
  static void read(const PagePart& page, std::int64_t tokens, std::vector<float>& keys) {
    std::vector<float> scratch(static_cast<std::size_t>(page.dim));
    for (std::int64_t t = 0; t < tokens; ++t) {
      const float* key = cached_row(page, t, scratch.data());
      keys.insert(keys.end(), key, key + page.dim);
    }
  }

  void add_row(std::int64_t t) {
    const std::vector<double> attended = attended_shares(t);
    const std::int64_t row = first_row_ + t, dim = call_.index.dim;
    const float* q = call_.index_q.row<float>(row) + head_ * dim;
    std::vector<double> scores = index_scores(q, t);
    std::vector<double> ranked = pool(scores);  // scores become their shares of their block's
    softmax(ranked);
    double divergence = 0;
    for (std::size_t b = 0; b < ranked.size(); ++b)
      if (attended[b] > 0) divergence += attended[b] * std::log(attended[b] / ranked[b]);
    call_.measures.divergences.row<float>(row)[head_] =
        static_cast<float>(std::max(divergence, 0.0));  // it is none below, but for rounding
    look_at_picks(row, attended);

    std::vector<double> d_query(static_cast<std::size_t>(dim), 0.0);
    for (std::int64_t j = 0; j <= t; ++j) {
      const auto block = static_cast<std::size_t>(j / call_.index.page_tokens);
      const double d_score = double{call_.scale} * call_.selection.scale *
                             (ranked[block] - attended[block]) *
                             scores[static_cast<std::size_t>(j)];
      if (d_score == 0) continue;
      const float* key = index_keys_.data() + j * dim;
      double* d_key = d_keys_.data() + j * dim;
      for (std::int64_t i = 0; i < dim; ++i) {
        d_query[static_cast<std::size_t>(i)] += d_score * key[i];
        d_key[i] += d_score * q[i];
      }
    }
    std::ranges::transform(d_query, call_.d_q.row<float>(row) + head_ * dim,
                           [](double d) { return static_cast<float>(d); });
  }

  // By block, of all tokens that the row sees.
  std::vector<double> attended_shares(std::int64_t t) const {
    const AttentionScores& attention = call_.attention;
    const std::int64_t dim = attention.cache.head_dim, page_tokens = call_.index.page_tokens;
    const std::int64_t group = attention.q.dim(1) / dim / call_.heads();
    std::vector<double> shares(static_cast<std::size_t>(t / page_tokens + 1), 0.0);
    std::vector<double> probabilities(static_cast<std::size_t>(t + 1));
    for (std::int64_t h = 0; h < group; ++h) {
      const float* q = attention.q.row<float>(first_row_ + t) + (head_ * group + h) * dim;
      for (std::int64_t j = 0; j <= t; ++j)
        probabilities[static_cast<std::size_t>(j)] =
            attention.scale * dot(q, keys_.data() + j * dim, dim);
      softmax(probabilities);
      for (std::int64_t j = 0; j <= t; ++j)
        shares[static_cast<std::size_t>(j / page_tokens)] +=
            probabilities[static_cast<std::size_t>(j)] / static_cast<double>(group);
    }
    return shares;
  }

  std::vector<double> index_scores(const float* q, std::int64_t t) const {
    std::vector<double> scores;
    for (std::int64_t j = 0; j <= t; ++j)
      scores.push_back(call_.selection.scale *
                       dot(q, index_keys_.data() + j * call_.index.dim, call_.index.dim));
    return scores;
  }

  // The score of each block (spec: text-model §3.5.4); in place of the tokens' scores, its
  // derivatives by them.
  std::vector<double> pool(std::vector<double>& scores) const {
    const auto page_tokens = static_cast<std::size_t>(call_.index.page_tokens);
    std::vector<double> pooled;
    for (std::size_t begin = 0; begin < scores.size(); begin += page_tokens) {
      const std::span block =
          std::span(scores).subspan(begin, std::min(page_tokens, scores.size() - begin));
      const auto largest = std::ranges::max_element(block);
      if (call_.selection.score_type == ScoreType::kMax) {
        const std::ptrdiff_t at = largest - block.begin();
        pooled.push_back(*largest);
        std::ranges::fill(block, 0.0);
        block[static_cast<std::size_t>(at)] = 1;
      } else {
        const double top = *largest;
        double sum = 0;
        for (const double score : block) sum += std::exp(score - top);
        pooled.push_back(top + std::log(sum));
        softmax(block);
      }
    }
    return pooled;
  }

  void look_at_picks(std::int64_t row, const std::vector<double>& attended) const {
    const std::int64_t topk = call_.selection.topk;
    const std::int32_t* list = call_.blocks.row<std::int32_t>(row) + head_ * topk;
    const auto is_picked = [&](std::int64_t block) {
      return std::find(list, list + topk, block) != list + topk;
    };
    const std::vector<float> shares(attended.begin(), attended.end());
    const std::vector<std::int32_t> best = largest(shares, topk);
    call_.measures.overlaps.row<float>(row)[head_] =
        static_cast<float>(std::ranges::count_if(best, is_picked)) /
        static_cast<float>(best.size());
    double mass = 0;
    for (std::int64_t b = 0; b < std::ssize(attended); ++b)
      if (is_picked(b)) mass += attended[static_cast<std::size_t>(b)];
    call_.measures.masses.row<float>(row)[head_] = static_cast<float>(mass);
  }

  const DivergenceCall& call_;
  const std::int64_t head_, first_row_, tokens_;
  std::vector<float> keys_;        // [tokens, head_dim]
  std::vector<float> index_keys_;  // [tokens, index_dim]
  std::vector<double> d_keys_;     // [tokens, index_dim]
};

}  // namespace

void ReferenceGradients::divergence(const Tensor& index_q, const Rows& rows, const IndexView& index,
                                    const Selection& selection, const Tensor& blocks,
                                    const AttentionScores& attention, float scale,
                                    const RankingMeasures& measures, const Tensor& d_q,
                                    const Tensor& d_k) {
  expect_divergence(index_q, rows, index, selection, blocks, attention, measures, d_q, d_k);
  const std::int64_t heads = attention.cache.kv_heads;
  const DivergenceCall call{index_q,   rows,  index,    selection, blocks,
                            attention, scale, measures, d_q};
  const auto sequences = whole_sequences(rows);
  std::vector<std::vector<double>> d_keys(sequences.size() * static_cast<std::size_t>(heads));
  pool_.parallel_for(std::ssize(d_keys), 1, [&](std::int64_t task, std::int64_t) {
    const auto [first, last] = sequences[static_cast<std::size_t>(task / heads)];
    HeadDivergence head(call, task % heads, first, last);
    head.run();
    d_keys[static_cast<std::size_t>(task)] = head.d_keys();
  });
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    float* out = d_k.row<float>(sequences[s].first);
    const std::size_t begin = s * static_cast<std::size_t>(heads);
    for (std::size_t i = 0; i < d_keys[begin].size(); ++i) {
      double sum = 0;
      for (std::size_t h = 0; h < static_cast<std::size_t>(heads); ++h) sum += d_keys[begin + h][i];
      out[i] = static_cast<float>(sum);
    }
  }
}

}  // namespace m3::reference
