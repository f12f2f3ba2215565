// How far the indexer's ranking of blocks is from what attention makes of them, and the derivative.
//
// A run of rows of one sequence and one K/V head passes over all pages of the sequence, as in
// attention.cc and index.cc. Scores live in the first-level cache until they are pooled; what is
// kept of a row is a number or two for each block. Limited by the products with the keys of all
// visible tokens, and by their exponentials.
//
// The index keys of a sequence learn from all its rows and heads: long sequences are cut into
// stretches of rows that each sum up their own, and these are added in ascending order. The cut
// depends on shapes alone.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/attention_derivative.h"
#include "backend/cpu/cpu_gradients.h"
#include "backend/cpu/page_product.h"
#include "backend/reference/ranking.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

constexpr std::int64_t kRunQueries = 192;
// Stretches and heads that threads may share, at most.
constexpr std::int64_t kUnitsMax = 64;

struct DivergenceCall {
  const Kernels& kernels;
  const Tensor& index_q;
  const Rows& rows;
  const IndexView& index;
  const Selection& selection;
  const Tensor& blocks;
  const AttentionScores& attention;
  float scale;
  const RankingMeasures& measures;
  const Tensor& d_q;

  std::int64_t heads() const { return attention.cache.kv_heads; }
  // Query heads of a K/V head.
  std::int64_t group() const { return attention.q.dim(1) / attention.cache.head_dim / heads(); }
  std::int64_t run_rows() const { return std::max<std::int64_t>(1, kRunQueries / group()); }
};

// Some runs of a sequence, in order, and one head.
struct Unit {
  const WholeSequence* sequence;
  const float* keys;  // index keys of the sequence, [tokens, index_dim]
  std::span<const RowRun> runs;
  std::int64_t head;
  std::int64_t tokens;  // that its rows see
  float* d_keys;        // [tokens, index_dim]
};

// Some queries, and their scores by the keys of one block at a time.
class BlockScores {
 public:
  static std::int64_t scratch_bytes(std::int64_t queries, const PagePart& keys) {
    return TaskScratch::bytes_for<std::uint16_t>(queries * round_up(keys.dim, 2)) +
           TaskScratch::bytes_for<float>(queries * keys.paired().padded_columns()) +
           TaskScratch::bytes_for<std::uint16_t>(room_for(keys));
  }

  // `keys`: any page's.
  BlockScores(const Kernels& kernels, std::int64_t queries, const PagePart& keys,
              TaskScratch::Slice& slice)
      : kernels_(kernels), queries_(queries), stride_(keys.paired().padded_columns()) {
    x_ = slice.take<std::uint16_t>(queries * round_up(keys.dim, 2));
    scores_ = slice.take<float>(queries * stride_);
    wide_keys_ = slice.take<std::uint16_t>(room_for(keys));
  }

  // x [count, dim] become the queries from `first` on.
  void load(std::int64_t first, const float* x, std::int64_t count, std::int64_t dim) {
    round_queries(kernels_, x, count, dim, x_ + first * round_up(dim, 2));
  }

  void multiply(const PagePart& keys, std::int64_t tokens) {
    multiply_page(kernels_, {.x = x_,
                             .x_stride = round_up(keys.dim, 2),
                             .rows = queries_,
                             .y = in_bf16(kernels_, keys, wide_keys_),
                             .shape = keys.paired(),
                             .columns = tokens,
                             .pairs = keys.paired().pairs(),
                             .out = scores_,
                             .out_stride = stride_});
  }
  // Of a query and its first `tokens` tokens; once after each multiply().
  float* scaled(std::int64_t query, float scale, std::int64_t tokens) {
    float* scores = scores_ + query * stride_;
    kernels_.scale_add(scores, scale, nullptr, tokens, scores);
    return scores;
  }

 private:
  const Kernels& kernels_;
  std::int64_t queries_, stride_;
  std::uint16_t* x_;
  float* scores_;  // [queries, stride_]
  std::uint16_t* wide_keys_;
};

// Turns logarithms of sums into shares of their total.
void softmax(std::span<double> logs) {
  const double largest = *std::ranges::max_element(logs);
  double sum = 0;
  for (double& x : logs) sum += x = std::exp(x - largest);
  for (double& x : logs) x /= sum;
}

class RunDivergence {
 public:
  static std::int64_t scratch_bytes(const DivergenceCall& call, std::int64_t blocks) {
    const std::int64_t rows = call.run_rows(), queries = rows * call.group();
    const auto floats = TaskScratch::bytes_for<float>;
    return BlockScores::scratch_bytes(queries, call.attention.cache.keys(0, 0)) +
           BlockScores::scratch_bytes(rows, call.index.keys(0)) + floats(queries * blocks) +
           2 * floats(rows * blocks) + TaskScratch::bytes_for<std::int32_t>(rows * blocks);
  }

  RunDivergence(const DivergenceCall& call, const Unit& unit, const RowRun& run,
                TaskScratch::Slice& slice)
      : call_(call),
        unit_(unit),
        run_(run),
        attention_(call.kernels, run.rows * group_, call.attention.cache.keys(0, 0), slice),
        index_(call.kernels, run.rows, call.index.keys(0), slice) {
    log_sums_ = slice.take<float>(run.rows * group_ * blocks_);
    pooled_ = slice.take<float>(run.rows * blocks_);
    d_pooled_ = slice.take<float>(run.rows * blocks_);
    best_ = slice.take<std::int32_t>(run.rows * blocks_);
  }

  void add() {
    for (std::int64_t r = 0; r < run_.rows; ++r) {
      const std::int64_t dim = call_.attention.cache.head_dim;
      const float* q = call_.attention.q.row<float>(run_.first + r) + unit_.head * group_ * dim;
      attention_.load(r * group_, q, group_, dim);
      index_.load(r, index_query(r), 1, call_.index.dim);
    }
    for (std::int64_t block = 0; block < blocks_; ++block) {
      sum_attention(block);
      pool_index(block);
    }
    for (std::int64_t r = 0; r < run_.rows; ++r) compare(r);
    for (std::int64_t block = 0; block < blocks_; ++block) spread(block);
  }

 private:
  SeenPages seen(std::int64_t r) const {
    return SeenPages(call_.rows, run_.first + r, call_.index.page_tokens);
  }
  const float* index_query(std::int64_t r) const {
    return call_.index_q.row<float>(run_.first + r) + unit_.head * call_.index.dim;
  }
  std::int64_t tokens_of(std::int64_t block) const { return seen(run_.rows - 1).tokens(block); }
  // body(row of the run, tokens of the block that it sees), of the rows that see any.
  template <typename Body>
  void for_rows_that_see(std::int64_t block, const Body& body) const {
    for (std::int64_t r = 0; r < run_.rows; ++r)
      if (block < seen(r).count()) body(r, seen(r).tokens(block));
  }

  // How much each query attends to the block, as a logarithm.
  void sum_attention(std::int64_t block) {
    const std::int64_t page = seen(run_.rows - 1).page(block);
    attention_.multiply(call_.attention.cache.keys(page, unit_.head), tokens_of(block));
    for_rows_that_see(block, [&](std::int64_t r, std::int64_t tokens) {
      for (std::int64_t q = r * group_; q < (r + 1) * group_; ++q)
        log_sums_[q * blocks_ + block] =
            call_.kernels.log_sum_exp(attention_.scaled(q, call_.attention.scale, tokens), tokens);
    });
  }

  void multiply_index(std::int64_t block) {
    index_.multiply(call_.index.keys(seen(run_.rows - 1).page(block)), tokens_of(block));
  }

  void pool_index(std::int64_t block) {
    multiply_index(block);
    for_rows_that_see(block, [&](std::int64_t r, std::int64_t tokens) {
      const float* scores = index_.scaled(r, call_.selection.scale, tokens);
      float& pooled = pooled_[r * blocks_ + block];
      if (takes_largest_) {
        const float* best = std::max_element(scores, scores + tokens);
        best_[r * blocks_ + block] = static_cast<std::int32_t>(best - scores);
        pooled = *best;
      } else {
        pooled = call_.kernels.log_sum_exp(scores, tokens);
      }
    });
  }

  // The divergence of a row, and its derivative by the pooled scores.
  void compare(std::int64_t r) {
    const std::int64_t row = run_.first + r;
    const auto blocks = static_cast<std::size_t>(seen(r).count());
    std::vector<double> attended(blocks, 0.0);
    for (std::int64_t q = r * group_; q < (r + 1) * group_; ++q) {
      std::vector<double> shares(log_sums_ + q * blocks_,
                                 log_sums_ + q * blocks_ + std::ssize(attended));
      softmax(shares);
      for (std::size_t b = 0; b < blocks; ++b)
        attended[b] += shares[b] / static_cast<double>(group_);
    }
    std::vector<double> ranked(pooled_ + r * blocks_, pooled_ + r * blocks_ + std::ssize(attended));
    softmax(ranked);
    double divergence = 0;
    for (std::size_t b = 0; b < blocks; ++b) {
      if (attended[b] > 0) divergence += attended[b] * std::log(attended[b] / ranked[b]);
      d_pooled_[r * blocks_ + static_cast<std::int64_t>(b)] =
          call_.scale * call_.selection.scale * static_cast<float>(ranked[b] - attended[b]);
    }
    call_.measures.divergences.row<float>(row)[unit_.head] =
        static_cast<float>(std::max(divergence, 0.0));  // it is none below, but for rounding
    look_at_picks(row, attended);
    std::fill_n(call_.d_q.row<float>(row) + unit_.head * call_.index.dim, call_.index.dim, 0.0f);
  }

  void look_at_picks(std::int64_t row, const std::vector<double>& attended) const {
    const std::int64_t topk = call_.selection.topk;
    const std::int32_t* list = call_.blocks.row<std::int32_t>(row) + unit_.head * topk;
    const auto is_picked = [&](std::int64_t block) {
      return std::find(list, list + topk, block) != list + topk;
    };
    const std::vector<float> shares(attended.begin(), attended.end());
    const std::vector<std::int32_t> best = reference::largest(shares, topk);
    call_.measures.overlaps.row<float>(row)[unit_.head] =
        static_cast<float>(std::ranges::count_if(best, is_picked)) /
        static_cast<float>(best.size());
    double mass = 0;
    for (std::int64_t b = 0; b < std::ssize(attended); ++b)
      if (is_picked(b)) mass += attended[static_cast<std::size_t>(b)];
    call_.measures.masses.row<float>(row)[unit_.head] = static_cast<float>(mass);
  }

  // Gives what comes to a block's pooled scores to the tokens that they are made of.
  void spread(std::int64_t block) {
    if (!takes_largest_) multiply_index(block);
    for_rows_that_see(block, [&](std::int64_t r, std::int64_t tokens) {
      const float d_pooled = d_pooled_[r * blocks_ + block];
      if (takes_largest_) return add_token(r, block, best_[r * blocks_ + block], d_pooled);
      float* shares = index_.scaled(r, call_.selection.scale, tokens);
      for (std::int64_t t = 0; t < tokens; ++t) shares[t] -= pooled_[r * blocks_ + block];
      call_.kernels.exp(shares, tokens, shares);
      for (std::int64_t t = 0; t < tokens; ++t) add_token(r, block, t, d_pooled * shares[t]);
    });
  }

  void add_token(std::int64_t r, std::int64_t block, std::int64_t token, float d_score) const {
    const std::int64_t dim = call_.index.dim, at = block * call_.index.page_tokens + token;
    float* d_q = call_.d_q.row<float>(run_.first + r) + unit_.head * dim;
    call_.kernels.add_scaled(unit_.keys + at * dim, d_score, dim, d_q);
    call_.kernels.add_scaled(index_query(r), d_score, dim, unit_.d_keys + at * dim);
  }

  const DivergenceCall& call_;
  const Unit& unit_;
  const RowRun run_;
  const std::int64_t group_ = call_.group(), blocks_ = seen(run_.rows - 1).count();
  const bool takes_largest_ = call_.selection.score_type == ScoreType::kMax;
  BlockScores attention_, index_;
  float* log_sums_;            // [queries, blocks_]
  float *pooled_, *d_pooled_;  // [rows, blocks_]
  std::int32_t* best_;         // the same: the token with the largest score
};

std::vector<Unit> cut_units(const DivergenceCall& call, std::span<const WholeSequence> sequences,
                            OpArena& arena) {
  const std::int64_t dim = call.index.dim;
  std::vector<Unit> units;
  for (const WholeSequence& s : sequences) {
    float* keys = arena.take<float>(s.tokens * dim);
    const SeenPages seen(call.rows, s.first_row + s.tokens - 1, call.index.page_tokens);
    for (std::int64_t t = 0; t < s.tokens; ++t) {
      const PagePart page = call.index.keys(seen.page(t / call.index.page_tokens));
      for (std::int64_t i = 0; i < dim; ++i)
        keys[t * dim + i] = page.get(t % call.index.page_tokens, i);
    }
    const std::int64_t runs = std::ssize(s.runs);
    const std::int64_t stretches =
        std::clamp<std::int64_t>(kUnitsMax / (std::ssize(sequences) * call.heads()), 1, runs);
    for (std::int64_t head = 0; head < call.heads(); ++head)
      for (std::int64_t i = 0; i < stretches; ++i) {
        const std::int64_t first = i * runs / stretches, last = (i + 1) * runs / stretches;
        const auto own =
            s.runs.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
        const std::int64_t tokens = own.back().first + own.back().rows - s.first_row;
        units.push_back({&s, keys, own, head, tokens, arena.take<float>(tokens * dim)});
      }
  }
  return units;
}

}  // namespace

void CpuGradients::divergence(const Tensor& index_q, const Rows& rows, const IndexView& index,
                              const Selection& selection, const Tensor& blocks,
                              const AttentionScores& attention, float scale,
                              const RankingMeasures& measures, const Tensor& d_q,
                              const Tensor& d_k) {
  expect_divergence(index_q, rows, index, selection, blocks, attention, measures, d_q, d_k);
  expect_pairs("divergence: index", index);
  expect_pairs("divergence: cache", attention.cache);
  if (index_q.dim(0) == 0) return;
  const DivergenceCall call{kernels_, index_q,   rows,  index,    selection,
                            blocks,   attention, scale, measures, d_q};
  std::vector<RowRun> runs;
  cut_runs(rows, call.run_rows(), runs);
  const std::vector<WholeSequence> sequences = sequences_of(runs, rows, index.page_tokens);
  arena_.reset();
  const std::vector<Unit> units = cut_units(call, sequences, arena_);
  std::int64_t blocks_max = 0;
  for (const WholeSequence& s : sequences)
    blocks_max = std::max(blocks_max, s.pages(index.page_tokens));
  tasks_.reserve(RunDivergence::scratch_bytes(call, blocks_max));
  for_each_task(pool_, std::ssize(units), [&](std::int64_t i) {
    // The last rows of a sequence take longest, so they come first.
    const Unit& unit = units[units.size() - 1 - static_cast<std::size_t>(i)];
    std::fill_n(unit.d_keys, unit.tokens * index.dim, 0.0f);
    for (const RowRun& run : unit.runs) {
      TaskScratch::Slice slice(tasks_);
      RunDivergence(call, unit, run, slice).add();
    }
  });
  for_ranges(pool_, d_k.dim(0), 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      std::fill_n(d_k.row<float>(row), index.dim, 0.0f);
      const std::int64_t token = rows.slots.as<std::int64_t>()[row];
      for (const Unit& unit : units)
        if (unit.sequence->first_row + token == row && token < unit.tokens)
          kernels_.add(unit.d_keys + token * index.dim, index.dim, d_k.row<float>(row));
    }
  });
}

}  // namespace m3::cpu
