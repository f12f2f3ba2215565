// The derivative of attention over pages (spec: training §2.7): with P = exp(scale * S - log sum),
// dP = dO Vᵀ and dS = scale * P (dP - dO · O), d_q = dS K, d_k = dSᵀ Q, d_v = Pᵀ dO.
//
// A run of rows of one sequence passes over the pages that any of them attends to, one K/V head at
// a time, as in attention.cc. Tokens lie along the rows of scores here and queries side by side, so
// that no product wants anything turned: its left sides are tokens of a page (or the page turned,
// for d_q), its right sides the run's queries, or dS in pairs of tokens, which come out of the
// softmax so.
//
// What keys and values receive is summed run after run. To have work for many threads, long
// sequences are cut into stretches of rows that each sum up their own; these are added in ascending
// order. The cut depends on shapes alone.
//
// Segments of the vision tower are sequences whose rows see all of them, each head with keys of its
// own. Nobody has kept their log sums, so a run finds them first, one product more to five.
#include "backend/cpu/attention_derivative.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace m3::cpu {
namespace {

// Stretches and heads that threads may share, at most, and the memory of their sums.
constexpr std::int64_t kUnitsMax = 64;
constexpr std::int64_t kSumBytesMax = std::int64_t{256} << 20;

// Some runs of a sequence, in order, and one K/V head.
struct Unit {
  const WholeSequence* sequence = nullptr;
  std::span<const RowRun> runs;
  std::int64_t kv_head = 0;
  std::int64_t tokens = 0;    // that its rows see
  float* d_keys = nullptr;    // [tokens, dim rounded up]
  float* d_values = nullptr;  // the same
};

// What a run gives to its unit's sums and to d_q.
class RunGradient {
 public:
  struct Arguments {
    const AttentionCall& call;
    const AttentionDerivative& d;
    std::span<const PageRows> pages;  // [page of all sequences, kv_heads]
  };

  static std::int64_t scratch_bytes(const AttentionCall& call) {
    const std::int64_t queries = padded_queries(call), tokens = round_up(call.cache.page_tokens, 2);
    const std::int64_t dim = round_up(call.dim(), kPairColumns);
    const auto pairs = TaskScratch::bytes_for<std::uint16_t>;
    const auto floats = TaskScratch::bytes_for<float>;
    return BlockVisits::scratch_bytes(call) + 4 * pairs(queries * dim) + floats(queries * dim) +
           5 * floats(queries) + 2 * floats(queries * tokens) + 3 * pairs(queries * tokens);
  }

  RunGradient(const Arguments& arguments, const Unit& unit, const RowRun& run,
              TaskScratch::Slice& slice)
      : a_(arguments),
        call_(arguments.call),
        unit_(unit),
        run_(run),
        visits_(call_, run, unit.kv_head, slice) {
    const std::int64_t tokens = round_up(call_.cache.page_tokens, 2);
    for (std::uint16_t** pairs : {&q_by_dim_, &d_out_by_dim_, &q_by_query_, &d_out_by_query_})
      *pairs = slice.take<std::uint16_t>(stride_ * dim_);
    d_q_ = slice.take<float>(stride_ * dim_);
    for (float** values : {&log_sums_, &deltas_, &visible_, &largest_, &factors_})
      *values = slice.take<float>(stride_);
    for (float** tile : {&scores_, &d_weights_}) *tile = slice.take<float>(stride_ * tokens);
    for (std::uint16_t** tile : {&weights_, &d_scores_, &d_score_pairs_})
      *tile = slice.take<std::uint16_t>(stride_ * tokens);
  }

  void add() {
    load();
    if (!call_.log_sums) find_log_sums();
    for (std::int64_t block = visits_.next(0); block != kNoBlock; block = visits_.next(block + 1))
      visits_.for_each_range(block,
                             [&](std::int64_t row, std::int64_t rows, const std::int64_t* tokens) {
                               add_block(block, row, rows, tokens);
                             });
    write();
  }

 private:
  // Of a run, with room for a vector that begins at the last one.
  static std::int64_t padded_queries(const AttentionCall& call) {
    return round_up(call.run_rows() * call.heads(), kPairColumns) + kPairColumns;
  }

  std::int64_t queries() const { return run_.rows * heads_; }
  // Of a tensor [rows, heads * dim].
  float* of_query(const Tensor& x, std::int64_t query) const {
    return x.row<float>(run_.first + query / heads_) +
           (unit_.kv_head * heads_ + query % heads_) * call_.dim();
  }

  // The run's queries and what comes back from them, along `dim` and along themselves.
  void load() {
    const std::int64_t dim = call_.dim();
    std::fill_n(d_q_, stride_ * dim_, 0.0f);
    for (float* values : {log_sums_, deltas_}) std::fill_n(values, stride_, 0.0f);
    for (std::uint16_t* pairs : {q_by_dim_, d_out_by_dim_})
      std::fill_n(pairs, stride_ * dim_, std::uint16_t{0});
    for (std::int64_t query = 0; query < queries(); ++query) {
      const float* q = of_query(call_.q, query);
      const float* d_out = of_query(a_.d.d_out, query);
      const float* out = of_query(call_.out, query);
      place_along_dim(q, query, q_by_dim_);
      place_along_dim(d_out, query, d_out_by_dim_);
      deltas_[query] = static_cast<float>(std::inner_product(d_out, d_out + dim, out, 0.0));
      if (call_.log_sums)
        log_sums_[query] = call_.log_sums.row<float>(
            run_.first + query / heads_)[unit_.kv_head * heads_ + query % heads_];
    }
    for (std::int64_t query = 0; query < queries(); query += 2) {
      const bool alone = query + 1 == queries();
      const auto place = [&](const Tensor& x, std::uint16_t* pairs) {
        call_.kernels.to_pairs(of_query(x, query), alone ? nullptr : of_query(x, query + 1), dim,
                               pairs + query * dim_);
      };
      place(call_.q, q_by_query_);
      place(a_.d.d_out, d_out_by_query_);
    }
  }

  void place_along_dim(const float* x, std::int64_t query, std::uint16_t* pairs) const {
    constexpr std::int64_t kPart = 64;
    std::uint16_t rounded[kPart];
    for (std::int64_t at = 0; at < call_.dim(); at += kPart) {
      const std::int64_t count = std::min(kPart, call_.dim() - at);
      call_.kernels.to_bf16(x + at, count, rounded);
      for (std::int64_t i = 0; i < count; ++i)
        pairs[(at + i) / 2 * 2 * stride_ + 2 * query + (at + i) % 2] = rounded[i];
    }
  }

  const PageRows& page_of(std::int64_t block) const {
    const std::int64_t at = (unit_.sequence->first_page + block) * call_.cache.kv_heads;
    return a_.pages[static_cast<std::size_t>(at + unit_.kv_head)];
  }

  // out [tokens, width] = x [tokens, dim] y, some queries along dim.
  void multiply_along_dim(const std::uint16_t* x, std::int64_t tokens, const std::uint16_t* y,
                          std::int64_t width, float* out) const {
    call_.kernels.multiply_pairs({.x = x,
                                  .x_stride = PageRows::dim_stride(call_.cache),
                                  .rows = tokens,
                                  .y = y,
                                  .y_stride = 2 * stride_,
                                  .columns = width,
                                  .pairs = divide_up(call_.dim(), 2),
                                  .out = out,
                                  .out_stride = width});
  }

  // Of a run whose rows all see the same.
  void find_log_sums() const {
    const std::int64_t width = round_up(queries(), kPairColumns);
    std::fill_n(largest_, width, -std::numeric_limits<float>::infinity());
    for (std::int64_t block = visits_.next(0); block != kNoBlock; block = visits_.next(block + 1))
      visits_.for_each_range(block, [&](std::int64_t, std::int64_t, const std::int64_t* tokens) {
        multiply_along_dim(page_of(block).keys, tokens[0], q_by_dim_, width, scores_);
        add_exponentials(tokens[0], width);
      });
    for (std::int64_t q = 0; q < width; ++q) log_sums_[q] = largest_[q] + std::log(log_sums_[q]);
  }

  // scores_ [tokens, width] to log_sums_, which holds sums of exp(score - largest) so far.
  void add_exponentials(std::int64_t tokens, std::int64_t width) const {
    const Kernels& kernels = call_.kernels;
    float* minus_largest = visible_;  // which is of no use yet
    std::copy_n(largest_, width, factors_);
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t q = 0; q < width; ++q)
        largest_[q] = std::max(largest_[q], call_.scale * scores_[t * width + q]);
    for (std::int64_t q = 0; q < width; ++q) {
      factors_[q] -= largest_[q];
      minus_largest[q] = -largest_[q];
    }
    kernels.exp(factors_, width, factors_);
    for (std::int64_t q = 0; q < width; ++q) log_sums_[q] *= factors_[q];
    for (std::int64_t t = 0; t < tokens; ++t) {
      float* s = scores_ + t * width;
      kernels.scale_add(s, call_.scale, minus_largest, width, s);
      kernels.exp(s, width, s);
      kernels.add(s, width, log_sums_);
    }
  }

  // Rows [row, row + rows) of the run, which attend to so many tokens of the block.
  void add_block(std::int64_t block, std::int64_t row, std::int64_t rows,
                 const std::int64_t* tokens) {
    // Pairs of queries begin at even ones.
    const std::int64_t skipped = row * heads_ % 2, first = row * heads_ - skipped;
    const std::int64_t count = rows * heads_ + skipped, width = round_up(count, kPairColumns);
    const std::int64_t seen = *std::max_element(tokens, tokens + rows);
    std::fill_n(visible_, width, 0.0f);
    for (std::int64_t i = 0; i < rows * heads_; ++i)
      visible_[skipped + i] = static_cast<float>(tokens[i / heads_]);

    const MaskedTile tile{.rows = {run_.first + row, rows},
                          .heads = heads_,
                          .first_slot = block * call_.cache.page_tokens,
                          .tokens = seen,
                          .stride = width,
                          .skipped = skipped};
    if (call_.rows.mask.bias && tile.is_hidden(call_.rows)) return;
    const PageRows& page = page_of(block);
    multiply_along_dim(page.keys, seen, q_by_dim_ + 2 * first, width, scores_);
    multiply_along_dim(page.values, seen, d_out_by_dim_ + 2 * first, width, d_weights_);
    if (call_.rows.mask.bias) add_bias(tile);
    call_.kernels.softmax_gradient({.s = scores_,
                                    .d_weights = d_weights_,
                                    .tokens = seen,
                                    .stride = width,
                                    .scale = call_.scale,
                                    .log_sums = log_sums_ + first,
                                    .deltas = deltas_ + first,
                                    .visible = visible_,
                                    .weights = weights_,
                                    .d_scores = d_scores_,
                                    .d_score_pairs = d_score_pairs_});
    if (call_.rows.mask.bias) silence_hidden(tile);
    const std::int64_t token = block * call_.cache.page_tokens;
    const auto along_queries = [&](const std::uint16_t* x, const std::uint16_t* y, float* out) {
      call_.kernels.multiply_pairs({.x = x,
                                    .x_stride = width,
                                    .rows = seen,
                                    .y = y + first * dim_,
                                    .y_stride = 2 * dim_,
                                    .columns = dim_,
                                    .pairs = divide_up(count, 2),
                                    .out = out + token * dim_,
                                    .out_stride = dim_,
                                    .adds = true});
    };
    along_queries(weights_, d_out_by_query_, unit_.d_values);
    along_queries(d_scores_, q_by_query_, unit_.d_keys);
    call_.kernels.multiply_pairs({.x = page.keys_turned,
                                  .x_stride = PageRows::token_stride(call_.cache),
                                  .rows = call_.dim(),
                                  .y = d_score_pairs_,
                                  .y_stride = 2 * width,
                                  .columns = width,
                                  .pairs = divide_up(seen, 2),
                                  .out = d_q_ + first,
                                  .out_stride = stride_,
                                  .adds = true});
  }

  // Scores of the queries of some rows and of some tokens.
  struct MaskedTile {
    RowRun rows;
    std::int64_t heads, first_slot, tokens, stride;
    std::int64_t skipped;  // queries in front of the first row's

    bool is_hidden(const Rows& all) const {
      for (std::int64_t r = 0; r < rows.rows; ++r) {
        const float* bias = all.bias_of(rows.first + r) + first_slot;
        if (!std::all_of(bias, bias + tokens, [](float b) { return std::isinf(b); })) return false;
      }
      return true;
    }

    // body(token, column, bias) for each token and each row, whose queries begin with the column.
    template <typename Body>
    void for_each(const Rows& all, const Body& body) const {
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t r = 0; r < rows.rows; ++r)
          body(t, skipped + r * heads, all.bias_of(rows.first + r)[first_slot + t]);
    }
  };

  void add_bias(const MaskedTile& tile) const {
    tile.for_each(call_.rows, [&](std::int64_t token, std::int64_t column, float bias) {
      if (bias == 0 || std::isinf(bias)) return;
      float* scores = scores_ + token * tile.stride + column;
      for (std::int64_t h = 0; h < heads_; ++h) scores[h] += bias / call_.scale;
    });
  }

  // The exponential of what is hidden would be tiny, not nothing, and is none of a row without
  // anything else.
  void silence_hidden(const MaskedTile& tile) const {
    tile.for_each(call_.rows, [&](std::int64_t token, std::int64_t column, float bias) {
      if (!std::isinf(bias)) return;
      const std::int64_t at = token * tile.stride + column;
      std::fill_n(weights_ + at, heads_, std::uint16_t{0});
      std::fill_n(d_scores_ + at, heads_, std::uint16_t{0});
      std::uint16_t* pairs = d_score_pairs_ + token / 2 * 2 * tile.stride + 2 * column + token % 2;
      for (std::int64_t h = 0; h < heads_; ++h) pairs[2 * h] = 0;
    });
  }

  void write() const {
    for (std::int64_t query = 0; query < queries(); ++query) {
      float* to = of_query(a_.d.d_q, query);
      for (std::int64_t i = 0; i < call_.dim(); ++i) to[i] = d_q_[i * stride_ + query];
    }
  }

  const Arguments& a_;
  const AttentionCall& call_;
  const Unit& unit_;
  const RowRun run_;
  const BlockVisits visits_;
  const std::int64_t heads_ = call_.heads(), stride_ = padded_queries(call_);
  const std::int64_t dim_ = round_up(call_.dim(), kPairColumns);
  std::uint16_t *q_by_dim_, *d_out_by_dim_;      // [dim / 2, stride, 2]
  std::uint16_t *q_by_query_, *d_out_by_query_;  // [queries / 2, dim_, 2]
  float* d_q_;                                   // [dim, stride]
  float *log_sums_, *deltas_, *visible_;         // [stride]
  float *largest_, *factors_;                    // [stride]
  float *scores_, *d_weights_;                   // [tokens, queries of a block]
  std::uint16_t *weights_, *d_scores_;           // the same
  std::uint16_t* d_score_pairs_;                 // [tokens / 2, queries of a block, 2]
};

std::int64_t last_slot(const Rows& rows, const RowRun& run) {
  return rows.slots.as<std::int64_t>()[run.first + run.rows - 1];
}

// Every sequence in stretches of equally many runs, for every head.
std::vector<Unit> cut_units(const AttentionCall& call, std::span<const WholeSequence> sequences,
                            OpArena& arena) {
  const std::int64_t kv_heads = call.cache.kv_heads, dim = round_up(call.dim(), kPairColumns);
  std::vector<Unit> units;
  for (const WholeSequence& s : sequences) {
    const std::int64_t bytes = 2 * 4 * s.tokens * dim * kv_heads;  // of a stretch
    const std::int64_t wanted = kUnitsMax / (std::ssize(sequences) * kv_heads);
    const std::int64_t runs = std::ssize(s.runs);
    const std::int64_t stretches =
        std::clamp<std::int64_t>(std::min({wanted, runs, kSumBytesMax / bytes}), 1, runs);
    for (std::int64_t head = 0; head < kv_heads; ++head)
      for (std::int64_t i = 0; i < stretches; ++i) {
        const std::int64_t first = i * runs / stretches, last = (i + 1) * runs / stretches;
        Unit unit{.sequence = &s,
                  .runs = s.runs.subspan(static_cast<std::size_t>(first),
                                         static_cast<std::size_t>(last - first)),
                  .kv_head = head};
        unit.tokens = last_slot(call.rows, unit.runs.back()) + 1;
        unit.d_keys = arena.take<float>(unit.tokens * dim);
        unit.d_values = arena.take<float>(unit.tokens * dim);
        units.push_back(unit);
      }
  }
  return units;
}

// d_k and d_v of a token and a head: the sum over the sequence's units, which follow each other.
void add_units(const AttentionCall& call, std::span<const Unit> units, ThreadPool& pool,
               const Tensor& d_k, const Tensor& d_v) {
  const std::int64_t dim = call.dim(), stride = round_up(dim, kPairColumns);
  for (std::size_t begin = 0; begin < units.size();) {
    std::size_t end = begin + 1;
    while (end < units.size() && units[end].sequence == units[begin].sequence &&
           units[end].kv_head == units[begin].kv_head)
      ++end;
    const WholeSequence& s = *units[begin].sequence;
    for_ranges(pool, s.tokens, 64, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        float* keys = d_k.row<float>(s.first_row + t) + units[begin].kv_head * dim;
        float* values = d_v.row<float>(s.first_row + t) + units[begin].kv_head * dim;
        std::fill_n(keys, dim, 0.0f);
        std::fill_n(values, dim, 0.0f);
        for (std::size_t i = begin; i < end; ++i) {
          if (t >= units[i].tokens) continue;
          call.kernels.add(units[i].d_keys + t * stride, dim, keys);
          call.kernels.add(units[i].d_values + t * stride, dim, values);
        }
      }
    });
    begin = end;
  }
}

}  // namespace

std::vector<WholeSequence> sequences_of(std::span<const RowRun> runs, const Rows& rows,
                                        std::int64_t page_tokens) {
  const auto* sequence = rows.sequences.as<std::int32_t>();
  const auto* slot = rows.slots.as<std::int64_t>();
  std::vector<WholeSequence> sequences;
  std::int64_t pages = 0;
  for (std::size_t begin = 0; begin < runs.size();) {
    std::size_t end = begin + 1;
    while (end < runs.size() && sequence[runs[end].first] == sequence[runs[begin].first]) ++end;
    WholeSequence s{.first_row = runs[begin].first,
                    .first_page = pages,
                    .runs = runs.subspan(begin, end - begin)};
    s.tokens = s.runs.back().first + s.runs.back().rows - s.first_row;
    for (std::int64_t t = 0; t < s.tokens; ++t)
      M3_CHECK(slot[s.first_row + t] == t,
               "attention gradient: row {} is at slot {}, its sequence is not whole",
               s.first_row + t, slot[s.first_row + t]);
    pages += s.pages(page_tokens);
    sequences.push_back(s);
    begin = end;
  }
  return sequences;
}

void fill_page(const Kernels& kernels, const KvView& cache, std::int64_t tokens, const RowOf& key,
               const RowOf& value, const PageRows& out) {
  const std::int64_t dim = cache.head_dim, stride = PageRows::dim_stride(cache);
  const auto place = [&](const float* row, std::uint16_t* to) {
    std::fill_n(to, round_up(dim, 2), std::uint16_t{0});
    if (row != nullptr) kernels.to_bf16(row, dim, to);
  };
  for (std::int64_t t = 0; t < round_up(cache.page_tokens, 2); ++t) {
    place(t < tokens ? key(t) : nullptr, out.keys + t * stride);
    place(t < tokens ? value(t) : nullptr, out.values + t * stride);
    for (std::int64_t i = 0; i < dim; ++i)
      out.keys_turned[i * PageRows::token_stride(cache) + t] = out.keys[t * stride + i];
  }
}

std::vector<PageRows> make_pages(const KvView& cache, std::span<const WholeSequence> sequences,
                                 ThreadPool& pool, OpArena& arena, const PageFill& fill) {
  const std::int64_t tokens = round_up(cache.page_tokens, 2);
  const std::int64_t rows = tokens * PageRows::dim_stride(cache);
  const std::int64_t turned = cache.head_dim * PageRows::token_stride(cache);
  std::vector<PageRows> pages;
  for (const WholeSequence& s : sequences)
    for (std::int64_t i = 0; i < s.pages(cache.page_tokens) * cache.kv_heads; ++i)
      pages.push_back({arena.take<std::uint16_t>(rows), arena.take<std::uint16_t>(rows),
                       arena.take<std::uint16_t>(turned)});
  for (const WholeSequence& s : sequences)
    for_each_task(pool, s.pages(cache.page_tokens) * cache.kv_heads, [&](std::int64_t task) {
      fill(s, task / cache.kv_heads, task % cache.kv_heads,
           pages[static_cast<std::size_t>(s.first_page * cache.kv_heads + task)]);
    });
  return pages;
}

void differentiate(const AttentionCall& call, std::span<const WholeSequence> sequences,
                   std::span<const PageRows> pages, const AttentionDerivative& d, ThreadPool& pool,
                   TaskScratch& tasks, OpArena& arena) {
  const std::vector<Unit> units = cut_units(call, sequences, arena);
  const RunGradient::Arguments arguments{call, d, pages};
  tasks.reserve(RunGradient::scratch_bytes(call));
  for_each_task(pool, std::ssize(units), [&](std::int64_t i) {
    // The last rows of a sequence take longest, so they come first.
    const Unit& unit = units[units.size() - 1 - static_cast<std::size_t>(i)];
    const std::int64_t sums = unit.tokens * round_up(call.dim(), kPairColumns);
    std::fill_n(unit.d_keys, sums, 0.0f);
    std::fill_n(unit.d_values, sums, 0.0f);
    for (const RowRun& run : unit.runs) {
      TaskScratch::Slice slice(tasks);
      RunGradient(arguments, unit, run, slice).add();
    }
  });
  add_units(call, units, pool, d.d_k, d.d_v);
}

}  // namespace m3::cpu
