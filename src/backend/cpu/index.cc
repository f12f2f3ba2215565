// The lightning indexer (spec: text-model §3.5): scores of all visible tokens for every index head,
// pooled by block; then the best blocks.
//
// The heads of several rows are the rows of one product with a page of index keys, so that a page
// is read once for all of them. Decode in long contexts is limited by reading the keys, prefill by
// multiplications.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/paging.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

constexpr std::int64_t kRunRows = 32;
constexpr std::int64_t kTaskPages = 16;
constexpr float kInitKey = 1e30f;
constexpr float kLocalKey = 1e29f;
constexpr float kNanKey = -1e30f;

struct SelectCall {
  const Kernels& kernels;
  const Tensor& q;
  const Rows& rows;
  const IndexView& cache;
  const Selection& selection;
  std::int64_t heads;
  std::int64_t pages_max;  // blocks that the furthest row sees
  float* pooled;           // [rows, heads, pages_max]

  bool bf16() const { return cache.dtype == DType::kBF16; }
  std::int64_t packed_bytes() const {
    return bf16() ? kernels.packed_row_bytes(cache.dim) : kernels.packed_bytes_f32(cache.dim);
  }
  float* pooled_of(std::int64_t row, std::int64_t head) const {
    return pooled + (row * heads + head) * pages_max;
  }
};

// Some pages for a run of rows.
class PageScores {
 public:
  static std::int64_t scratch_bytes(const SelectCall& call, std::int64_t run_rows) {
    const std::int64_t products = run_rows * call.heads;
    return TaskScratch::bytes_for<std::byte>(products * call.packed_bytes()) +
           TaskScratch::bytes_for<void*>(products) +
           TaskScratch::bytes_for<std::int64_t>(run_rows) +
           TaskScratch::bytes_for<float>(products * call.cache.page_tokens) +
           TaskScratch::bytes_for<std::byte>(kDotScratchBytes);
  }

  PageScores(const SelectCall& call, const RowRun& run, TaskScratch::Slice& slice)
      : call_(call),
        run_(run),
        packed_(slice.take<std::byte>(run.rows * call.heads * call.packed_bytes())),
        queries_(slice.take<const void*>(run.rows * call.heads)),
        seeing_(slice.take<std::int64_t>(run.rows)),
        scores_(slice.take<float>(run.rows * call.heads * call.cache.page_tokens)),
        dot_scratch_(slice.take<std::byte>(kDotScratchBytes)) {}

  // Pooled scores of blocks [first, last) for the rows that see them and have a choice.
  void run(std::int64_t first, std::int64_t last) {
    bool packed = false;
    for (std::int64_t block = first; block < last; ++block) {
      const std::int64_t rows = find_rows(block);
      if (rows == 0) continue;
      if (!packed) pack_queries();
      packed = true;
      score(block, rows);
      for (std::int64_t i = 0; i < rows; ++i) pool(i, block);
    }
  }

 private:
  SeenPages seen(std::int64_t row) const {
    return SeenPages(call_.rows, row, call_.cache.page_tokens);
  }

  std::int64_t find_rows(std::int64_t block) {
    std::int64_t count = 0;
    for (std::int64_t row = run_.first; row < run_.first + run_.rows; ++row) {
      const std::int64_t visible = seen(row).count();
      if (block < visible && visible > call_.selection.topk) seeing_[count++] = row;
    }
    return count;
  }

  void pack_queries() {
    const std::int64_t dim = call_.cache.dim;
    const auto pack = call_.bf16() ? call_.kernels.pack_row : call_.kernels.pack_f32;
    for (std::int64_t i = 0; i < run_.rows * call_.heads; ++i)
      pack(call_.q.row<float>(run_.first) + i * dim, dim, packed_ + i * call_.packed_bytes());
  }

  // scores_ [rows, heads, page_tokens] of the rows in seeing_. A row's scores beyond its own slot
  // mean nothing and are not looked at.
  void score(std::int64_t block, std::int64_t rows) {
    std::int64_t tokens = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      tokens = std::max(tokens, seen(seeing_[i]).tokens(block));
      for (std::int64_t h = 0; h < call_.heads; ++h)
        queries_[i * call_.heads + h] =
            packed_ + ((seeing_[i] - run_.first) * call_.heads + h) * call_.packed_bytes();
    }
    const Tensor keys = call_.cache.keys(seen(seeing_[0]).page(block));
    const auto dot = call_.bf16() ? call_.kernels.dot_rows : call_.kernels.dot_f32;
    DotJob job{.x = queries_,
               .rows = rows * call_.heads,
               .w = {call_.bf16() ? WeightFormat::kBF16 : WeightFormat::kF32, nullptr, nullptr},
               .k = call_.cache.dim,
               .out_stride = call_.cache.page_tokens,
               .scratch = dot_scratch_};
    for (std::int64_t t = 0; t < tokens; t += kOutputBlock) {
      job.w.values = static_cast<const std::byte*>(keys.data) +
                     t * call_.cache.dim * dtype_size(call_.cache.dtype);
      job.outputs = std::min(kOutputBlock, tokens - t);
      job.out = scores_ + t;
      dot(job);
    }
  }

  void pool(std::int64_t i, std::int64_t block) {
    const std::int64_t tokens = seen(seeing_[i]).tokens(block);
    for (std::int64_t h = 0; h < call_.heads; ++h) {
      float* s = scores_ + (i * call_.heads + h) * call_.cache.page_tokens;
      call_.kernels.scale_add(s, call_.selection.scale, nullptr, tokens, s);
      call_.pooled_of(seeing_[i], h)[block] = call_.selection.score_type == ScoreType::kMax
                                                  ? call_.kernels.largest(s, tokens)
                                                  : call_.kernels.log_sum_exp(s, tokens);
    }
  }

  const SelectCall& call_;
  const RowRun run_;
  std::byte* packed_;
  const void** queries_;
  std::int64_t* seeing_;  // rows that see a block
  float* scores_;
  std::byte* dot_scratch_;
};

// Turns the pooled scores of `visible` blocks into sort keys (spec: text-model §3.5.6).
void make_keys(const Selection& selection, std::int64_t visible, float* keys) {
  for (std::int64_t b = 0; b < visible; ++b) {
    if (b >= visible - selection.local_blocks) {
      keys[b] = kLocalKey;
    } else if (b < selection.init_blocks) {
      keys[b] = kInitKey;
    } else if (std::isnan(keys[b])) {
      keys[b] = kNanKey;
    }
  }
}

// The `count` largest keys, ties to the lower block; ascending.
void rank_blocks(const float* keys, std::int64_t visible, std::int64_t count, std::int32_t* order,
                 std::int32_t* list) {
  std::iota(order, order + visible, 0);
  std::nth_element(order, order + count, order + visible, [&](std::int32_t a, std::int32_t b) {
    return keys[a] != keys[b] ? keys[a] > keys[b] : a < b;
  });
  std::copy_n(order, count, list);
  std::sort(list, list + count);
}

}  // namespace

void CpuBackend::select_blocks(const Tensor& q, const Rows& rows, const IndexView& cache,
                               const Selection& selection, const Tensor& blocks) {
  expect_cache("select_blocks: cache", cache);
  M3_CHECK(blocks.rank == 3, "select_blocks: blocks are {}", blocks.describe());
  const std::int64_t count = blocks.dim(0), heads = blocks.dim(1), topk = selection.topk;
  expect_tensor("select_blocks: blocks", blocks, DType::kI32, {count, heads, topk});
  expect_tensor("select_blocks: q", q, DType::kF32, {count, heads * cache.dim});
  expect_rows("select_blocks: rows", rows, count);
  M3_CHECK(heads <= kRowBlock, "select_blocks: {} index heads", heads);
  if (count == 0) return;

  const std::int64_t* slots = rows.slots.as<std::int64_t>();
  const std::int64_t pages_max = *std::max_element(slots, slots + count) / cache.page_tokens + 1;
  SelectCall call{kernels_, q, rows, cache, selection, heads, pages_max, nullptr};
  const std::int64_t run_rows = std::clamp<std::int64_t>(kRowBlock / heads, 1, kRunRows);
  tasks_.reserve(std::max(PageScores::scratch_bytes(call, run_rows),
                          TaskScratch::bytes_for<std::int32_t>(pages_max)));
  if (pages_max > topk) {
    call.pooled = sums_.take<float>(count * heads * pages_max);
    cut_runs(rows, run_rows, runs_);
    const std::int64_t pieces = (pages_max + kTaskPages - 1) / kTaskPages;
    for_each_task(pool_, std::ssize(runs_) * pieces, [&](std::int64_t task) {
      TaskScratch::Slice slice(tasks_);
      PageScores scores(call, runs_[static_cast<std::size_t>(task / pieces)], slice);
      const std::int64_t first = task % pieces * kTaskPages;
      scores.run(first, std::min(first + kTaskPages, pages_max));
    });
  }
  for_each_task(pool_, count * heads, [&](std::int64_t task) {
    const std::int64_t row = task / heads, head = task % heads;
    const std::int64_t visible = slots[row] / cache.page_tokens + 1;
    std::int32_t* list = blocks.row<std::int32_t>(row) + head * topk;
    const std::int64_t kept = std::min(topk, visible);
    if (kept == visible) {
      std::iota(list, list + kept, 0);  // no choice, hence no scores
    } else {
      TaskScratch::Slice slice(tasks_);
      float* keys = call.pooled_of(row, head);
      make_keys(selection, visible, keys);
      rank_blocks(keys, visible, kept, slice.take<std::int32_t>(visible), list);
    }
    std::fill(list + kept, list + topk, -1);
  });
}

}  // namespace m3::cpu
