// Softmax attention over the pages of the cache (spec: text-model §3.6).
//
// A run of rows of one sequence passes over the pages that any of them attends to, one K/V head at
// a time: scores of all its queries, softmax against the largest score so far, and the mix of the
// values, where the weights are rounded to bfloat16. Both products read the page as it lies
// (PageOrder::kPairs), so that a page costs its reading once, whoever chose it.
//
// Sums start anew at every group of kGroupPages pages; groups are merged in ascending order. That
// structure depends on absolute positions alone, so one row in a long context can be cut at groups
// for many threads and gives the bits that one thread alone would give.
//
// Limits: 16 query heads share a K/V head, hence 16 multiply-adds for each number read. Prefill is
// bound by multiplications; decode too, where a core reads more than 14 GB/s. Measured on AMD EPYC
// (Zen 4), avx512-bf16, a page of 128 tokens x 128 (64 KiB) for 16 heads: 4.5 us at the peak of the
// multiplications, 5.9 us in decode (products 4.9, softmax 0.6). A prompt of 2,048 rows reaches
// 0.76 of that peak, and 0.62 where each row reads 16 blocks of 256 that its neighbours did not
// choose. On Intel without AMX (avx512-vnni), which must widen: 5.6 us at the peak, 9.0 us in
// decode (products 6.7), where reading the page alone takes 3.9.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/attention_visits.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/page_product.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

constexpr std::int64_t kGroupPages = 16;
// More than this, and cutting a row for several threads costs more memory than it is worth.
constexpr std::int64_t kSplitBytesMax = std::int64_t{256} << 20;

// The sums of some queries: a Partial's three arrays in one piece of memory.
class Sums {
 public:
  static std::int64_t floats(std::int64_t queries, std::int64_t columns) {
    return queries * (columns + 2);
  }
  Sums(float* memory, std::int64_t queries, std::int64_t columns)
      : partial{memory, memory + queries, memory + 2 * queries},
        queries_(queries),
        columns_(columns) {}

  void clear() const {
    std::fill_n(partial.m, queries_, -std::numeric_limits<float>::infinity());
    std::fill_n(partial.l, queries_ * (columns_ + 1), 0.0f);  // and o, which follows
  }

  Partial partial;

 private:
  std::int64_t queries_, columns_;
};

// A run of rows and one K/V head.
class RunAttention {
 public:
  static std::int64_t scratch_bytes(const AttentionCall& call) {
    const PagePart keys = call.cache.keys(0, 0), values = call.cache.values(0, 0);
    const std::int64_t queries = call.run_rows() * call.heads();
    const std::int64_t tokens = keys.paired().padded_columns();
    return BlockVisits::scratch_bytes(call) +
           TaskScratch::bytes_for<std::uint16_t>(queries * round_up(call.dim(), 2)) +
           TaskScratch::bytes_for<float>(queries * tokens) +
           TaskScratch::bytes_for<std::uint16_t>(queries * tokens) +
           TaskScratch::bytes_for<float>(queries) +
           TaskScratch::bytes_for<std::uint16_t>(2 * call.columns()) +
           TaskScratch::bytes_for<std::uint16_t>(room_for(keys)) +
           TaskScratch::bytes_for<std::uint16_t>(room_for(values));
  }

  RunAttention(const AttentionCall& call, const RowRun& run, std::int64_t kv_head,
               TaskScratch::Slice& slice)
      : call_(call), run_(run), kv_head_(kv_head), visits_(call, run, kv_head, slice) {
    const PagePart keys = call.cache.keys(0, 0), values = call.cache.values(0, 0);
    const std::int64_t queries = call.run_rows() * call.heads(), dim = call.dim();
    tokens_stride_ = keys.paired().padded_columns();
    queries_ = slice.take<std::uint16_t>(queries * round_up(dim, 2));
    scores_ = slice.take<float>(queries * tokens_stride_);
    weights_ = slice.take<std::uint16_t>(queries * tokens_stride_);
    factors_ = slice.take<float>(queries);
    last_pair_ = slice.take<std::uint16_t>(2 * call.columns());
    wide_keys_ = slice.take<std::uint16_t>(room_for(keys));
    wide_values_ = slice.take<std::uint16_t>(room_for(values));
    for (std::int64_t r = 0; r < run.rows; ++r)
      round_queries(call.kernels, call.q.row<float>(run.first + r) + kv_head * heads() * dim,
                    heads(), dim, queries_ + r * heads() * round_up(dim, 2));
  }

  // The first block that any row attends to and that is not below `from`; kNoBlock: none.
  std::int64_t next_block(std::int64_t from) const { return visits_.next(from); }

  // All blocks in [first, last), each for all rows that attend to it.
  void attend(std::int64_t first, std::int64_t last, const Sums& sums) {
    sums.clear();
    for (std::int64_t block = next_block(first); block < last;) {
      const std::int64_t next = next_block(block + 1);
      attend_block(block, next, sums.partial);
      block = next;
    }
  }

  void merge(const Sums& group, const Sums& total) const {
    call_.kernels.merge(group.partial, run_.rows * heads(), call_.columns(), total.partial);
  }

  void write(const Sums& total) const {
    const std::int64_t dim = call_.dim();
    for (std::int64_t r = 0; r < run_.rows; ++r)
      for (std::int64_t h = 0; h < heads(); ++h) {
        const std::int64_t query = r * heads() + h;
        // No token at all: zeros.
        const float factor = total.partial.l[query] == 0 ? 0 : 1 / total.partial.l[query];
        call_.kernels.scale_add(
            total.partial.o + query * call_.columns(), factor, nullptr, dim,
            call_.out.row<float>(run_.first + r) + (kv_head_ * heads() + h) * dim);
        if (call_.log_sums)
          call_.log_sums.row<float>(run_.first + r)[kv_head_ * heads() + h] =
              total.partial.m[query] + std::log(total.partial.l[query]);
      }
  }

 private:
  std::int64_t heads() const { return call_.heads(); }

  void attend_block(std::int64_t block, std::int64_t next, const Partial& sums) {
    const std::int64_t page = visits_.page(block);
    keys_ = call_.cache.keys(page, kv_head_);
    values_ = call_.cache.values(page, kv_head_);
    next_page_ = next == kNoBlock ? nullptr : call_.cache.keys(visits_.page(next), kv_head_).data;
    keys_bf16_ = in_bf16(call_.kernels, keys_, wide_keys_);
    values_bf16_ = in_bf16(call_.kernels, values_, wide_values_);
    visits_.for_each_span(block, [&](std::int64_t row, std::int64_t rows, std::int64_t tokens) {
      if (!call_.rows.mask.bias) return attend_span(row * heads(), rows * heads(), tokens, sums);
      for (std::int64_t r = row; r < row + rows; ++r) {
        const float* bias = call_.rows.bias_of(run_.first + r) + block * call_.cache.page_tokens;
        // Of a row that sees none of these tokens there is no largest score.
        if (!std::all_of(bias, bias + tokens, [](float b) { return std::isinf(b); }))
          attend_span(r * heads(), heads(), tokens, sums, bias);
      }
    });
  }

  // Queries that see the same tokens of the page; with a bias, those of one row.
  void attend_span(std::int64_t first, std::int64_t queries, std::int64_t tokens,
                   const Partial& sums, const float* bias = nullptr) {
    const Kernels& kernels = call_.kernels;
    const std::int64_t width = round_up(call_.dim(), 2), columns = call_.columns();
    float* mixed = sums.o + first * columns;
    multiply_page(kernels, {.x = queries_ + first * width,
                            .x_stride = width,
                            .rows = queries,
                            .y = keys_bf16_,
                            .shape = keys_.paired(),
                            .columns = tokens,
                            .pairs = keys_.paired().pairs(),
                            .out = scores_,
                            .out_stride = tokens_stride_,
                            .ahead = values_.data,
                            .ahead_bytes = values_.bytes()});
    if (bias != nullptr)
      for (std::int64_t i = 0; i < queries; ++i)
        kernels.scale_add(scores_ + i * tokens_stride_, call_.scale, bias, tokens,
                          scores_ + i * tokens_stride_);
    kernels.softmax_piece({.s = scores_,
                           .s_stride = tokens_stride_,
                           .rows = queries,
                           .tokens = tokens,
                           .scale = bias != nullptr ? 1 : call_.scale,
                           .m = sums.m + first,
                           .l = sums.l + first,
                           .factor = factors_,
                           .p = weights_,
                           .p_stride = tokens_stride_});
    for (std::int64_t i = 0; i < queries; ++i)
      if (factors_[i] != 1)
        kernels.scale_add(mixed + i * columns, factors_[i], nullptr, columns, mixed + i * columns);
    add_values(queries, tokens, mixed);
  }

  void add_values(std::int64_t queries, std::int64_t tokens, float* mixed) {
    PageProduct product{.x = weights_,
                        .x_stride = tokens_stride_,
                        .rows = queries,
                        .y = values_bf16_,
                        .shape = values_.paired(),
                        .columns = call_.dim(),
                        .pairs = tokens / 2,
                        .out = mixed,
                        .out_stride = call_.columns(),
                        .adds = true,
                        .ahead = next_page_,
                        .ahead_bytes = next_page_ == nullptr ? 0 : keys_.bytes()};
    if (product.pairs > 0) multiply_page(call_.kernels, product);
    if (tokens % 2 == 0) return;
    // The other value of the last pair belongs to a token that these queries do not see: a weight
    // of zero would not silence a NaN there.
    const PairedMatrix& shape = product.shape;
    for (std::int64_t c = 0; c < shape.columns; ++c) {
      last_pair_[PairedMatrix{2, shape.columns}.place(0, c)] =
          values_bf16_[shape.place(tokens - 1, c)];
      last_pair_[PairedMatrix{2, shape.columns}.place(1, c)] = 0;
    }
    product.x += tokens - 1;
    product.y = last_pair_;
    product.shape.depth = 2;
    product.pairs = 1;
    product.ahead = nullptr;
    product.ahead_bytes = 0;
    multiply_page(call_.kernels, product);
  }

  const AttentionCall& call_;
  const RowRun run_;
  const std::int64_t kv_head_;
  const BlockVisits visits_;
  std::int64_t tokens_stride_;
  std::uint16_t* queries_;    // [rows, heads, dim], an odd dim padded
  float* scores_;             // [queries, tokens_stride]
  std::uint16_t* weights_;    // the same
  float* factors_;            // [queries]
  std::uint16_t* last_pair_;  // one pair of values
  std::uint16_t *wide_keys_, *wide_values_;
  // The page that is visited.
  PagePart keys_, values_;
  const std::uint16_t *keys_bf16_, *values_bf16_;
  const std::byte* next_page_;
};

void check_call(const AttentionCall& call) {
  const KvView& cache = call.cache;
  expect_cache("attention: cache", cache);
  expect_pairs("attention", cache);
  expect_rank("attention: q", call.q, 2);
  const std::int64_t rows = call.q.dim(0), width = call.q.dim(1);
  M3_CHECK(width > 0 && width % (cache.kv_heads * cache.head_dim) == 0,
           "attention: rows of {} for {} heads of {}", width, cache.kv_heads, cache.head_dim);
  expect_tensor("attention: out", call.out, DType::kF32, {rows, width});
  if (call.log_sums)
    expect_tensor("attention: log_sums", call.log_sums, DType::kF32, {rows, width / call.dim()});
  expect_rows("attention: rows", call.rows, rows);
  if (call.blocks == nullptr) return;
  M3_CHECK(call.blocks->rank == 3, "attention: blocks are {}", call.blocks->describe());
  expect_tensor("attention: blocks", *call.blocks, DType::kI32,
                {rows, cache.kv_heads, call.blocks->dim(2)});
}

std::int64_t groups_of(const Rows& rows, std::int64_t page_tokens) {
  const std::int64_t* slot = rows.slots.as<std::int64_t>();
  const std::int64_t last = *std::max_element(slot, slot + rows.slots.dim(0));
  return last / page_tokens / kGroupPages + 1;
}

}  // namespace

void CpuBackend::attention(const Tensor& q, const Rows& rows, const KvView& cache, float scale,
                           const Tensor* blocks, const Tensor& out, const Tensor& log_sums) {
  const Rows seen = rows.seen_by(blocks);
  const AttentionCall call{kernels_, q, seen, cache, scale, blocks, out, log_sums};
  check_call(call);
  if (q.dim(0) == 0) return;
  cut_runs(rows, call.run_rows(), runs_);
  const std::int64_t columns = call.columns(), kv_heads = cache.kv_heads;
  const std::int64_t tasks = std::ssize(runs_) * kv_heads;
  const std::int64_t groups = groups_of(seen, cache.page_tokens);
  std::int64_t rows_most = 0;
  for (const RowRun& run : runs_) rows_most = std::max(rows_most, run.rows);
  const std::int64_t floats = Sums::floats(rows_most * call.heads(), columns);
  tasks_.reserve(RunAttention::scratch_bytes(call) + 2 * TaskScratch::bytes_for<float>(floats));

  const bool split = groups > 1 && tasks < 4 * pool_.threads() &&
                     tasks * groups * floats * std::int64_t{sizeof(float)} <= kSplitBytesMax;
  float* partials = split ? partials_.take<float>(tasks * groups * floats) : nullptr;
  // The last runs of a prompt take longest, so they come first.
  const auto run_of = [&](std::int64_t task) -> const RowRun& {
    return runs_[runs_.size() - 1 - static_cast<std::size_t>(task / kv_heads)];
  };
  const auto sums_at = [&](float* memory, std::int64_t task) {
    return Sums(memory, run_of(task).rows * call.heads(), columns);
  };
  if (split) {
    for_each_task(pool_, tasks * groups, [&](std::int64_t i) {
      const std::int64_t task = i / groups, first = i % groups * kGroupPages;
      if (!BlockVisits::any(call, run_of(task), task % kv_heads, first, first + kGroupPages))
        return;
      TaskScratch::Slice slice(tasks_);
      RunAttention run(call, run_of(task), task % kv_heads, slice);
      run.attend(first, first + kGroupPages, sums_at(partials + i * floats, task));
    });
  }
  for_each_task(pool_, tasks, [&](std::int64_t task) {
    TaskScratch::Slice slice(tasks_);
    RunAttention run(call, run_of(task), task % kv_heads, slice);
    const Sums total = sums_at(slice.take<float>(floats), task);
    const Sums own = sums_at(slice.take<float>(floats), task);
    total.clear();
    for (std::int64_t b = run.next_block(0); b != kNoBlock;) {
      const std::int64_t group = b / kGroupPages, end = (group + 1) * kGroupPages;
      if (split) {
        run.merge(sums_at(partials + (task * groups + group) * floats, task), total);
      } else {
        run.attend(group * kGroupPages, end, own);
        run.merge(own, total);
      }
      b = run.next_block(end);
    }
    run.write(total);
  });
}

}  // namespace m3::cpu
