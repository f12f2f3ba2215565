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
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "backend/cpu/attention_visits.h"
#include "backend/cpu/cpu_gradients.h"
#include "backend/cpu/gradient_products.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

// Stretches and heads that threads may share, at most, and the memory of their sums.
constexpr std::int64_t kUnitsMax = 64;
constexpr std::int64_t kSumBytesMax = std::int64_t{256} << 20;

// A page's keys and values of one head in bfloat16; tokens that no row has reached are zeros.
struct PageRows {
  std::uint16_t *keys, *values;  // [tokens, dim_stride()]
  std::uint16_t* keys_turned;    // [dim, token_stride()]

  static std::int64_t dim_stride(const KvView& cache) {
    return RowRounder::stride_of(cache.head_dim);
  }
  static std::int64_t token_stride(const KvView& cache) {
    return RowRounder::stride_of(cache.page_tokens);
  }
};

struct Sequence {
  std::int64_t first_row = 0, tokens = 0;
  std::int64_t first_page = 0;  // among those of all sequences
  std::span<const RowRun> runs = {};

  std::int64_t pages(std::int64_t page_tokens) const { return divide_up(tokens, page_tokens); }
};

// Some runs of a sequence, in order, and one K/V head.
struct Unit {
  const Sequence* sequence = nullptr;
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
    const Tensor& d_out;
    const Tensor& d_q;
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
      const float* d_out = of_query(a_.d_out, query);
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
      place(a_.d_out, d_out_by_query_);
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
      float* to = of_query(a_.d_q, query);
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

std::vector<Sequence> sequences_of(std::span<const RowRun> runs, const Rows& rows,
                                   std::int64_t page_tokens) {
  const auto* sequence = rows.sequences.as<std::int32_t>();
  const auto* slot = rows.slots.as<std::int64_t>();
  std::vector<Sequence> sequences;
  std::int64_t pages = 0;
  for (std::size_t begin = 0; begin < runs.size();) {
    std::size_t end = begin + 1;
    while (end < runs.size() && sequence[runs[end].first] == sequence[runs[begin].first]) ++end;
    Sequence s{.first_row = runs[begin].first,
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

// A page's first `tokens` tokens; key(t) and value(t) give a row [head_dim], valid until the next.
template <typename Key, typename Value>
void fill_page(const Kernels& kernels, const KvView& cache, std::int64_t tokens, const Key& key,
               const Value& value, const PageRows& out) {
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

// Of each page of each sequence and each head: fill(sequence, block, head, page).
template <typename Fill>
std::vector<PageRows> make_pages(const KvView& cache, std::span<const Sequence> sequences,
                                 ThreadPool& pool, OpArena& arena, const Fill& fill) {
  const std::int64_t tokens = round_up(cache.page_tokens, 2);
  const std::int64_t rows = tokens * PageRows::dim_stride(cache);
  const std::int64_t turned = cache.head_dim * PageRows::token_stride(cache);
  std::vector<PageRows> pages;
  for (const Sequence& s : sequences)
    for (std::int64_t i = 0; i < s.pages(cache.page_tokens) * cache.kv_heads; ++i)
      pages.push_back({arena.take<std::uint16_t>(rows), arena.take<std::uint16_t>(rows),
                       arena.take<std::uint16_t>(turned)});
  for (const Sequence& s : sequences)
    for_each_task(pool, s.pages(cache.page_tokens) * cache.kv_heads, [&](std::int64_t task) {
      fill(s, task / cache.kv_heads, task % cache.kv_heads,
           pages[static_cast<std::size_t>(s.first_page * cache.kv_heads + task)]);
    });
  return pages;
}

std::vector<PageRows> load_pages(const AttentionCall& call, std::span<const Sequence> sequences,
                                 ThreadPool& pool, OpArena& arena) {
  const KvView& cache = call.cache;
  return make_pages(
      cache, sequences, pool, arena,
      [&](const Sequence& s, std::int64_t block, std::int64_t head, const PageRows& out) {
        const SeenPages seen(call.rows, s.first_row + s.tokens - 1, cache.page_tokens);
        std::vector<float> row(static_cast<std::size_t>(cache.head_dim));
        const auto rows_of = [&](const PagePart& part) {
          return [&row, part](std::int64_t t) {
            for (std::size_t i = 0; i < row.size(); ++i)
              row[i] = part.get(t, static_cast<std::int64_t>(i));
            return row.data();
          };
        };
        const std::int64_t page = seen.page(block);
        fill_page(call.kernels, cache, seen.tokens(block), rows_of(cache.keys(page, head)),
                  rows_of(cache.values(page, head)), out);
      });
}

std::int64_t last_slot(const Rows& rows, const RowRun& run) {
  return rows.slots.as<std::int64_t>()[run.first + run.rows - 1];
}

// Every sequence in stretches of equally many runs, for every head.
std::vector<Unit> cut_units(const AttentionCall& call, std::span<const Sequence> sequences,
                            OpArena& arena) {
  const std::int64_t kv_heads = call.cache.kv_heads, dim = round_up(call.dim(), kPairColumns);
  std::vector<Unit> units;
  for (const Sequence& s : sequences) {
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
    const Sequence& s = *units[begin].sequence;
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

struct Derivatives {
  const Tensor &q, &k, &v;
};

void differentiate(const AttentionCall& call, std::span<const Sequence> sequences,
                   std::span<const PageRows> pages, const Tensor& d_out, const Derivatives& d,
                   ThreadPool& pool, TaskScratch& tasks, OpArena& arena) {
  const std::vector<Unit> units = cut_units(call, sequences, arena);
  const RunGradient::Arguments arguments{call, d_out, d.q, pages};
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
  add_units(call, units, pool, d.k, d.v);
}

void check_call(const AttentionCall& call, const Tensor& d_out, const Tensor& d_q,
                const Tensor& d_k, const Tensor& d_v) {
  const KvView& cache = call.cache;
  expect_cache("attention gradient: cache", cache);
  expect_rank("attention gradient: q", call.q, 2);
  const std::int64_t rows = call.q.dim(0), width = call.q.dim(1);
  for (const Tensor& other : {call.out, d_out, d_q})
    expect_tensor("attention gradient: rows", other, DType::kF32, {rows, width});
  expect_tensor("attention gradient: log_sums", call.log_sums, DType::kF32,
                {rows, width / call.dim()});
  for (const Tensor& other : {d_k, d_v})
    expect_tensor("attention gradient: d_k, d_v", other, DType::kF32,
                  {rows, cache.kv_heads * call.dim()});
  expect_rows("attention gradient: rows", call.rows, rows);
  if (call.blocks != nullptr)
    expect_tensor("attention gradient: blocks", *call.blocks, DType::kI32,
                  {rows, cache.kv_heads, call.blocks->dim(2)});
}

}  // namespace

void CpuGradients::attention(const Tensor& q, const Rows& rows, const KvView& cache, float scale,
                             const Tensor* blocks, const Tensor& out, const Tensor& log_sums,
                             const Tensor& d_out, const Tensor& d_q, const Tensor& d_k,
                             const Tensor& d_v) {
  const Rows seen = rows.seen_by(blocks);
  const AttentionCall call{kernels_, q, seen, cache, scale, blocks, out, log_sums};
  check_call(call, d_out, d_q, d_k, d_v);
  if (q.dim(0) == 0) return;
  std::vector<RowRun> runs;
  cut_runs(rows, call.run_rows(), runs);
  const std::vector<Sequence> sequences = sequences_of(runs, rows, cache.page_tokens);
  arena_.reset();
  const std::vector<PageRows> pages = load_pages(call, sequences, pool_, arena_);
  differentiate(call, sequences, pages, d_out, {d_q, d_k, d_v}, pool_, tasks_, arena_);
}

namespace {

constexpr std::int64_t kSegmentPage = 128;

// Rows of segments as rows of sequences: as they lie, and as they see, each the whole.
struct SegmentRows {
  Rows own, seen;
};

SegmentRows rows_of_segments(const Tensor& segments, std::int64_t count, OpArena& arena) {
  const std::int32_t* offsets = segments.as<std::int32_t>();
  const std::int64_t segment_count = segments.dim(0) - 1;
  auto* slots = arena.take<std::int64_t>(count);
  auto* last = arena.take<std::int64_t>(count);
  auto* sequence = arena.take<std::int32_t>(count);
  std::int64_t pages = 1;
  for (std::int64_t s = 0; s < segment_count; ++s) {
    pages = std::max(pages, divide_up(offsets[s + 1] - offsets[s], kSegmentPage));
    for (std::int64_t row = offsets[s]; row < offsets[s + 1]; ++row) {
      slots[row] = row - offsets[s];
      last[row] = offsets[s + 1] - offsets[s] - 1;
      sequence[row] = static_cast<std::int32_t>(s);
    }
  }
  SegmentRows rows;
  rows.own = {
      .slots = {slots, DType::kI64, {count}},
      .sequences = {sequence, DType::kI32, {count}},
      // Nobody asks which pages: they are here alone.
      .pages = {
          arena.take<std::int32_t>(segment_count * pages), DType::kI32, {segment_count, pages}}};
  rows.seen = rows.own;
  rows.seen.slots = {last, DType::kI64, {count}};
  return rows;
}

}  // namespace

void CpuGradients::segment_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                     const Tensor& segments, std::int64_t dim, float scale,
                                     const Tensor& out, const Tensor& d_out, const Tensor& d_q,
                                     const Tensor& d_k, const Tensor& d_v) {
  expect_segments(q, k, v, segments, dim, out);
  for (const Tensor& other : {d_out, d_q, d_k, d_v})
    expect_tensor("segment_attention gradient", other, DType::kF32, {q.dim(0), q.dim(1)});
  if (q.dim(0) == 0) return;
  arena_.reset();
  const SegmentRows rows = rows_of_segments(segments, q.dim(0), arena_);
  const KvView shape{.dtype = DType::kBF16,
                     .page_tokens = kSegmentPage,
                     .kv_heads = q.dim(1) / dim,
                     .head_dim = dim};
  const Tensor no_log_sums;
  const AttentionCall call{kernels_, q, rows.seen, shape, scale, nullptr, out, no_log_sums};
  std::vector<RowRun> runs;
  cut_runs(rows.own, call.run_rows(), runs);
  const std::vector<Sequence> sequences = sequences_of(runs, rows.own, kSegmentPage);
  const std::vector<PageRows> pages = make_pages(
      shape, sequences, pool_, arena_,
      [&](const Sequence& s, std::int64_t block, std::int64_t head, const PageRows& page) {
        const std::int64_t first = block * kSegmentPage;
        const auto rows_of = [&](const Tensor& x) {
          return [&x, row = s.first_row + first, column = head * dim](std::int64_t t) {
            return x.row<float>(row + t) + column;
          };
        };
        fill_page(kernels_, shape, std::min(kSegmentPage, s.tokens - first), rows_of(k), rows_of(v),
                  page);
      });
  differentiate(call, sequences, pages, d_out, {d_q, d_k, d_v}, pool_, tasks_, arena_);
}

}  // namespace m3::cpu
