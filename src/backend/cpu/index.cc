// The lightning indexer (spec: text-model §3.5): scores of all visible tokens for every index head,
// pooled by block; then the best blocks.
//
// One pass over the index keys does it all: a page's scores, for all heads of a run of rows, live
// in the first-level cache until they are pooled, and a block that is not among the best so far is
// forgotten at once. Decode in long contexts is limited by reading the keys, prefill by
// multiplications. What is best does not depend on the order in which blocks are met, so the pages
// of a run are cut into as many pieces as keep all threads busy.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/page_product.h"
#include "backend/cpu/paging.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

// Rows times heads that share a page's reading.
constexpr std::int64_t kRunQueries = 192;
constexpr std::int64_t kPiecePagesMin = 4;
constexpr float kInitKey = 1e30f;
constexpr float kLocalKey = 1e29f;
constexpr float kNanKey = -1e30f;

// A block and the number by which it is ranked.
struct Candidate {
  float key;
  std::int32_t block;
};

bool is_better(const Candidate& a, const Candidate& b) {
  return a.key != b.key ? a.key > b.key : a.block < b.block;
}

// The best candidates of one row and head in one piece: a heap with the worst in front.
struct BestBlocks {
  Candidate* heap;  // [topk]
  std::int32_t* count;

  void add(const Candidate& c, std::int64_t topk) const {
    if (*count < topk) {
      heap[(*count)++] = c;
      std::push_heap(heap, heap + *count, is_better);
    } else if (is_better(c, heap[0])) {
      std::pop_heap(heap, heap + topk, is_better);
      heap[topk - 1] = c;
      std::push_heap(heap, heap + topk, is_better);
    }
  }
};

struct SelectCall {
  const Kernels& kernels;
  const Tensor& q;
  const Rows& rows;
  const IndexView& cache;
  const Selection& selection;
  std::int64_t heads;
  std::int64_t pieces;
  Candidate* candidates;  // [rows, heads, pieces, topk]
  std::int32_t* counts;   // [rows, heads, pieces]

  SeenPages seen(std::int64_t row) const { return SeenPages(rows, row, cache.page_tokens); }
  // Otherwise it takes all blocks. Which of them a mask leaves is seen with their scores.
  bool has_choice(std::int64_t row) const {
    return rows.mask.bias || seen(row).count() > selection.topk;
  }
  BestBlocks best(std::int64_t row, std::int64_t head, std::int64_t piece) const {
    const std::int64_t place = (row * heads + head) * pieces + piece;
    return {candidates + place * selection.topk, counts + place};
  }
};

// Some pages for a run of rows.
class PageScores {
 public:
  static std::int64_t scratch_bytes(const SelectCall& call, std::int64_t run_rows) {
    const PagePart keys = call.cache.keys(0);
    const std::int64_t queries = run_rows * call.heads;
    return TaskScratch::bytes_for<std::uint16_t>(queries * round_up(keys.dim, 2)) +
           TaskScratch::bytes_for<float>(queries * keys.paired().padded_columns()) +
           TaskScratch::bytes_for<std::uint16_t>(room_for(keys));
  }

  PageScores(const SelectCall& call, const RowRun& run, std::int64_t piece,
             TaskScratch::Slice& slice)
      : call_(call), run_(run), piece_(piece), last_row_(run.first) {
    const PagePart keys = call.cache.keys(0);
    const std::int64_t queries = run.rows * call.heads;
    stride_ = keys.paired().padded_columns();
    queries_ = slice.take<std::uint16_t>(queries * round_up(keys.dim, 2));
    scores_ = slice.take<float>(queries * stride_);
    wide_keys_ = slice.take<std::uint16_t>(room_for(keys));
    for (std::int64_t row = run.first; row < run.first + run.rows; ++row) {
      for (std::int64_t h = 0; h < call.heads; ++h) *call.best(row, h, piece).count = 0;
      if (call.seen(row).slot() > call.seen(last_row_).slot()) last_row_ = row;
    }
  }

  void run() {
    if (!call_.has_choice(last_row_)) return;
    const std::int64_t blocks = call_.seen(last_row_).count();
    const std::int64_t first = blocks * piece_ / call_.pieces;
    const std::int64_t last = blocks * (piece_ + 1) / call_.pieces;
    round_queries(call_.kernels, call_.q.row<float>(run_.first), run_.rows * call_.heads,
                  call_.cache.dim, queries_);
    for (std::int64_t block = first; block < last; ++block) {
      score(block, block + 1 < last ? block + 1 : block);
      for (std::int64_t row = run_.first; row < run_.first + run_.rows; ++row)
        if (call_.has_choice(row) && block < call_.seen(row).count()) rank(row, block);
    }
  }

 private:
  // scores_ [rows, heads, stride_]. A row's scores beyond its own slot mean nothing and are not
  // looked at.
  void score(std::int64_t block, std::int64_t next) {
    const SeenPages seen = call_.seen(last_row_);
    const PagePart keys = call_.cache.keys(seen.page(block));
    const std::int64_t width = round_up(keys.dim, 2);
    multiply_page(call_.kernels, {.x = queries_,
                                  .x_stride = width,
                                  .rows = run_.rows * call_.heads,
                                  .y = in_bf16(call_.kernels, keys, wide_keys_),
                                  .shape = keys.paired(),
                                  .columns = seen.tokens(block),
                                  .pairs = keys.paired().pairs(),
                                  .out = scores_,
                                  .out_stride = stride_,
                                  .ahead = call_.cache.keys(seen.page(next)).data,
                                  .ahead_bytes = keys.bytes()});
  }

  void rank(std::int64_t row, std::int64_t block) {
    const Selection& selection = call_.selection;
    const std::int64_t visible = call_.seen(row).count(), tokens = call_.seen(row).tokens(block);
    for (std::int64_t h = 0; h < call_.heads; ++h) {
      float* scores = scores_ + ((row - run_.first) * call_.heads + h) * stride_;
      const std::int64_t count = keep_unhidden(row, block, tokens, scores);
      if (count == 0) continue;
      const float pooled = pool(scores, count);
      const float key = block >= visible - selection.local_blocks ? kLocalKey
                        : block < selection.init_blocks           ? kInitKey
                        : std::isnan(pooled)                      ? kNanKey
                                                                  : pooled;
      call_.best(row, h, piece_).add({key, static_cast<std::int32_t>(block)}, selection.topk);
    }
  }

  // Moves the scores that the row's mask does not hide to the front; how many they are.
  std::int64_t keep_unhidden(std::int64_t row, std::int64_t block, std::int64_t tokens,
                             float* scores) const {
    const float* bias = call_.rows.bias_of(row);
    if (bias == nullptr) return tokens;
    bias += block * call_.cache.page_tokens;
    std::int64_t kept = 0;
    for (std::int64_t t = 0; t < tokens; ++t)
      if (!std::isinf(bias[t])) scores[kept++] = scores[t];
    return kept;
  }

  // Of scores that are still to be scaled.
  float pool(float* scores, std::int64_t tokens) const {
    const Selection& selection = call_.selection;
    // A positive factor keeps their order, and rounding does.
    if (selection.score_type == ScoreType::kMax && selection.scale > 0)
      return selection.scale * call_.kernels.largest(scores, tokens);
    call_.kernels.scale_add(scores, selection.scale, nullptr, tokens, scores);
    return selection.score_type == ScoreType::kMax ? call_.kernels.largest(scores, tokens)
                                                   : call_.kernels.log_sum_exp(scores, tokens);
  }

  const SelectCall& call_;
  const RowRun run_;
  const std::int64_t piece_;
  std::int64_t last_row_;   // the one that sees most
  std::uint16_t* queries_;  // [rows, heads, dim], an odd dim padded
  float* scores_;
  std::int64_t stride_;
  std::uint16_t* wide_keys_;
};

// The best of the candidates of all pieces, ascending, then -1.
void write_best(const SelectCall& call, std::int64_t row, std::int64_t head, std::int32_t* list) {
  const std::int64_t topk = call.selection.topk, visible = call.seen(row).count();
  std::int64_t kept = std::min(topk, visible);
  if (!call.has_choice(row)) {
    std::iota(list, list + kept, 0);  // hence no scores
  } else {
    // Moved together behind those of the first piece.
    Candidate* all = call.best(row, head, 0).heap;
    std::int64_t count = *call.best(row, head, 0).count;
    for (std::int64_t p = 1; p < call.pieces; ++p) {
      const BestBlocks best = call.best(row, head, p);
      count = std::copy_n(best.heap, *best.count, all + count) - all;
    }
    kept = std::min(kept, count);
    std::nth_element(all, all + kept, all + count, is_better);
    std::transform(all, all + kept, list, [](const Candidate& c) { return c.block; });
    std::sort(list, list + kept);
  }
  std::fill(list + kept, list + topk, -1);
}

}  // namespace

void CpuBackend::select_blocks(const Tensor& q, const Rows& rows, const IndexView& cache,
                               const Selection& selection, const Tensor& blocks) {
  expect_cache("select_blocks: cache", cache);
  expect_pairs("select_blocks", cache);
  M3_CHECK(blocks.rank == 3, "select_blocks: blocks are {}", blocks.describe());
  const std::int64_t count = blocks.dim(0), heads = blocks.dim(1), topk = selection.topk;
  expect_tensor("select_blocks: blocks", blocks, DType::kI32, {count, heads, topk});
  expect_tensor("select_blocks: q", q, DType::kF32, {count, heads * cache.dim});
  expect_rows("select_blocks: rows", rows, count);
  if (count == 0) return;

  const std::int64_t* slots = rows.slots.as<std::int64_t>();
  const std::int64_t pages_max = *std::max_element(slots, slots + count) / cache.page_tokens + 1;
  SelectCall call{kernels_, q, rows, cache, selection, heads, 1, nullptr, nullptr};
  if (pages_max > topk || rows.mask.bias) {
    const std::int64_t run_rows = std::max<std::int64_t>(1, kRunQueries / heads);
    cut_runs(rows, run_rows, runs_);
    const std::int64_t wanted = 4 * pool_.threads() / std::ssize(runs_);
    call.pieces = std::clamp<std::int64_t>(wanted, 1, (pages_max - 1) / kPiecePagesMin + 1);
    call.candidates = candidates_.take<Candidate>(count * heads * call.pieces * topk);
    call.counts = candidate_counts_.take<std::int32_t>(count * heads * call.pieces);
    tasks_.reserve(PageScores::scratch_bytes(call, std::min(run_rows, count)));
    for_each_task(pool_, std::ssize(runs_) * call.pieces, [&](std::int64_t task) {
      TaskScratch::Slice slice(tasks_);
      const RowRun& run = runs_[static_cast<std::size_t>(task / call.pieces)];
      PageScores(call, run, task % call.pieces, slice).run();
    });
  }
  for_ranges(pool_, count * heads, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      write_best(call, i / heads, i % heads,
                 blocks.row<std::int32_t>(i / heads) + i % heads * topk);
  });
}

}  // namespace m3::cpu
