// Softmax attention over the pages of the cache (spec: text-model §3.6).
//
// Per page: scores of all query heads of a K/V head (the dot kernel: heads are rows, keys are
// weights), softmax, P V; then the page is merged into what came before. Pages are merged in
// ascending order within a group of kGroupPages pages, and groups in ascending order: a structure
// that depends on absolute positions alone. So one row in a long context can be cut at group
// boundaries for many threads, and gives the bits that one thread alone would give.
//
// Long contexts in decode are limited by reading K and V once for the 16 heads that share them;
// prefill by P V, whose multiplications are in float32.
#include <algorithm>
#include <limits>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/paging.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

constexpr std::int64_t kGroupPages = 32;
// Rows that visit a page together: their queries and sums stay in the second-level cache.
constexpr std::int64_t kRunRows = 8;
constexpr std::int64_t kNoBlock = std::numeric_limits<std::int64_t>::max();
// More than this, and cutting a row for several threads costs more memory than it is worth.
constexpr std::int64_t kSplitBytesMax = std::int64_t{256} << 20;

struct AttentionCall {
  const Kernels& kernels;
  const Tensor& q;
  const Rows& rows;
  const KvView& cache;
  float scale;
  const Tensor* blocks;
  const Tensor& out;

  std::int64_t dim() const { return cache.head_dim; }
  std::int64_t heads() const { return q.dim(1) / dim() / cache.kv_heads; }  // per K/V head
  bool bf16() const { return cache.dtype == DType::kBF16; }
  std::int64_t packed_bytes() const {
    return bf16() ? kernels.packed_row_bytes(dim()) : kernels.packed_bytes_f32(dim());
  }
};

// One Partial for each of some rows.
class Partials {
 public:
  static std::int64_t floats(std::int64_t rows, std::int64_t heads, std::int64_t dim) {
    return rows * heads * (dim + 2);
  }
  Partials(float* memory, std::int64_t rows, std::int64_t heads, std::int64_t dim)
      : memory_(memory), rows_(rows), heads_(heads), dim_(dim) {}

  Partial row(std::int64_t r) const {
    float* start = memory_ + floats(r, heads_, dim_);
    return {start, start + heads_, start + 2 * heads_};
  }
  void clear() const {
    std::fill_n(memory_, floats(rows_, heads_, dim_), 0.0f);
    for (std::int64_t r = 0; r < rows_; ++r)
      std::fill_n(row(r).m, heads_, -std::numeric_limits<float>::infinity());
  }

 private:
  float* memory_;
  std::int64_t rows_, heads_, dim_;
};

// A run of rows and one K/V head.
class RunAttention {
 public:
  static std::int64_t scratch_bytes(const AttentionCall& call) {
    const std::int64_t heads = call.heads();
    return TaskScratch::bytes_for<std::byte>(kRunRows * heads * call.packed_bytes()) +
           TaskScratch::bytes_for<void*>(kRunRows * heads) +
           TaskScratch::bytes_for<float>(heads * call.cache.page_tokens) +
           TaskScratch::bytes_for<float>(Partials::floats(1, heads, call.dim())) +
           TaskScratch::bytes_for<std::byte>(kDotScratchBytes);
  }

  RunAttention(const AttentionCall& call, const RowRun& run, std::int64_t kv_head,
               TaskScratch::Slice& slice)
      : call_(call),
        run_(run),
        kv_head_(kv_head),
        packed_(slice.take<std::byte>(kRunRows * call.heads() * call.packed_bytes())),
        queries_(slice.take<const void*>(kRunRows * call.heads())),
        scores_(slice.take<float>(call.heads() * call.cache.page_tokens)),
        page_(slice.take<float>(Partials::floats(1, call.heads(), call.dim())), 1, call.heads(),
              call.dim()),
        dot_scratch_(slice.take<std::byte>(kDotScratchBytes)) {
    pack_queries();
  }

  // The first block that any row attends to and that is not below `from`; kNoBlock: none.
  std::int64_t next_block(std::int64_t from) const {
    std::int64_t next = kNoBlock;
    for (std::int64_t r = 0; r < run_.rows; ++r) next = std::min(next, next_block(r, from));
    return next;
  }

  // All blocks in [first, last), one row after the other at each, so that rows share its reading.
  void attend(std::int64_t first, std::int64_t last, const Partials& sums) {
    sums.clear();
    for (std::int64_t b = next_block(first); b < last; b = next_block(b + 1))
      for (std::int64_t r = 0; r < run_.rows; ++r)
        if (next_block(r, b) == b) attend_page(r, b, sums.row(r));
  }

  void merge(const Partials& group, const Partials& total) const {
    for (std::int64_t r = 0; r < run_.rows; ++r)
      call_.kernels.merge(group.row(r), call_.heads(), call_.dim(), total.row(r));
  }

  void write(const Partials& total) const {
    const std::int64_t heads = call_.heads(), dim = call_.dim();
    for (std::int64_t r = 0; r < run_.rows; ++r) {
      const Partial sum = total.row(r);
      float* out = call_.out.row<float>(run_.first + r) + kv_head_ * heads * dim;
      for (std::int64_t h = 0; h < heads; ++h) {
        // No token at all: zeros.
        const float factor = sum.l[h] == 0 ? 0 : 1 / sum.l[h];
        call_.kernels.scale_add(sum.o + h * dim, factor, nullptr, dim, out + h * dim);
      }
    }
  }

 private:
  void pack_queries() {
    const std::int64_t heads = call_.heads(), dim = call_.dim(), bytes = call_.packed_bytes();
    const auto pack = call_.bf16() ? call_.kernels.pack_row : call_.kernels.pack_f32;
    for (std::int64_t i = 0; i < run_.rows * heads; ++i) {
      const float* row = call_.q.row<float>(run_.first + i / heads);
      pack(row + (kv_head_ * heads + i % heads) * dim, dim, packed_ + i * bytes);
      queries_[i] = packed_ + i * bytes;
    }
  }

  std::int64_t next_block(std::int64_t r, std::int64_t from) const {
    const std::int64_t row = run_.first + r;
    if (call_.blocks == nullptr) {
      const std::int64_t last = call_.rows.slots.as<std::int64_t>()[row] / call_.cache.page_tokens;
      return from <= last ? from : kNoBlock;
    }
    const std::int64_t topk = call_.blocks->dim(2);
    const std::int32_t* list = call_.blocks->row<std::int32_t>(row) + kv_head_ * topk;
    std::int64_t next = kNoBlock;
    for (std::int64_t i = 0; i < topk; ++i)
      if (list[i] >= from) next = std::min<std::int64_t>(next, list[i]);
    return next;
  }

  void attend_page(std::int64_t r, std::int64_t block, const Partial& sum) {
    const Kernels& kernels = call_.kernels;
    const SeenPages seen(call_.rows, run_.first + r, call_.cache.page_tokens);
    const std::int64_t page = seen.page(block), tokens = seen.tokens(block);
    const std::int64_t heads = call_.heads(), dim = call_.dim();
    score(queries_ + r * heads, call_.cache.keys(page, kv_head_), tokens);
    const Partial mine = page_.row(0);
    kernels.softmax_page(scores_, call_.cache.page_tokens, heads, tokens, call_.scale, mine.m,
                         mine.l);
    kernels.weigh_values({.p = scores_,
                          .p_stride = call_.cache.page_tokens,
                          .heads = heads,
                          .tokens = tokens,
                          .values = call_.cache.values(page, kv_head_).data,
                          .bf16 = call_.bf16(),
                          .dim = dim,
                          .out = mine.o});
    kernels.merge(mine, heads, dim, sum);
  }

  // scores_ [heads, page_tokens] of the first `tokens` keys.
  void score(const void* const* queries, const Tensor& keys, std::int64_t tokens) {
    const auto dot = call_.bf16() ? call_.kernels.dot_rows : call_.kernels.dot_f32;
    DotJob job{.x = queries,
               .rows = call_.heads(),
               .w = {call_.bf16() ? WeightFormat::kBF16 : WeightFormat::kF32, nullptr, nullptr},
               .k = call_.dim(),
               .out_stride = call_.cache.page_tokens,
               .scratch = dot_scratch_};
    for (std::int64_t t = 0; t < tokens; t += kOutputBlock) {
      job.w.values = static_cast<const std::byte*>(keys.data) +
                     t * call_.dim() * dtype_size(call_.cache.dtype);
      job.outputs = std::min(kOutputBlock, tokens - t);
      job.out = scores_ + t;
      dot(job);
    }
  }

  const AttentionCall& call_;
  const RowRun run_;
  const std::int64_t kv_head_;
  std::byte* packed_;
  const void** queries_;  // [rows, heads] packed
  float* scores_;
  Partials page_;
  std::byte* dot_scratch_;
};

void check_call(const AttentionCall& call) {
  const KvView& cache = call.cache;
  expect_cache("attention: cache", cache);
  expect_rank("attention: q", call.q, 2);
  const std::int64_t rows = call.q.dim(0), width = call.q.dim(1);
  M3_CHECK(width > 0 && width % (cache.kv_heads * cache.head_dim) == 0,
           "attention: rows of {} for {} heads of {}", width, cache.kv_heads, cache.head_dim);
  M3_CHECK(call.heads() <= kRowBlock, "attention: {} query heads share a K/V head", call.heads());
  expect_tensor("attention: out", call.out, DType::kF32, {rows, width});
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
                           const Tensor* blocks, const Tensor& out) {
  const AttentionCall call{kernels_, q, rows, cache, scale, blocks, out};
  check_call(call);
  if (q.dim(0) == 0) return;
  cut_runs(rows, kRunRows, runs_);
  const std::int64_t heads = call.heads(), dim = call.dim(), kv_heads = cache.kv_heads;
  const std::int64_t tasks = std::ssize(runs_) * kv_heads;
  const std::int64_t groups = groups_of(rows, cache.page_tokens);
  const std::int64_t sums = Partials::floats(kRunRows, heads, dim);
  tasks_.reserve(RunAttention::scratch_bytes(call) + 2 * TaskScratch::bytes_for<float>(sums));

  const bool split = groups > 1 && tasks < 2 * pool_.threads() &&
                     tasks * groups * sums * std::int64_t{sizeof(float)} <= kSplitBytesMax;
  float* partials = split ? partials_.take<float>(tasks * groups * sums) : nullptr;
  const auto run_of = [&](std::int64_t task) -> const RowRun& {
    return runs_[static_cast<std::size_t>(task / kv_heads)];
  };
  if (split) {
    for_each_task(pool_, tasks * groups, [&](std::int64_t i) {
      const std::int64_t task = i / groups, first = i % groups * kGroupPages;
      TaskScratch::Slice slice(tasks_);
      RunAttention run(call, run_of(task), task % kv_heads, slice);
      run.attend(first, first + kGroupPages,
                 Partials(partials + i * sums, run_of(task).rows, heads, dim));
    });
  }
  for_each_task(pool_, tasks, [&](std::int64_t task) {
    TaskScratch::Slice slice(tasks_);
    const std::int64_t count = run_of(task).rows;
    RunAttention run(call, run_of(task), task % kv_heads, slice);
    const Partials total(slice.take<float>(sums), count, heads, dim);
    const Partials own(slice.take<float>(sums), count, heads, dim);
    total.clear();
    for (std::int64_t b = run.next_block(0); b != kNoBlock;) {
      const std::int64_t group = b / kGroupPages, end = (group + 1) * kGroupPages;
      if (split) {
        run.merge(Partials(partials + (task * groups + group) * sums, count, heads, dim), total);
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
