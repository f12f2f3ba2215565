// Which rows of a run attend to which blocks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "backend/cpu/paging.h"

namespace m3::cpu {

inline constexpr std::int64_t kNoBlock = std::numeric_limits<std::int64_t>::max();

struct AttentionCall {
  const Kernels& kernels;
  const Tensor& q;
  const Rows& rows;
  const KvView& cache;
  float scale;
  const Tensor* blocks;
  const Tensor& out;
  const Tensor& log_sums;

  std::int64_t dim() const { return cache.head_dim; }
  std::int64_t heads() const { return q.dim(1) / dim() / cache.kv_heads; }  // per K/V head
  // Of the mixed values: dim, padded.
  std::int64_t columns() const { return cache.values(0, 0).paired().padded_columns(); }
  // Rows that visit a page together: their queries, scores and sums stay in the second-level cache.
  std::int64_t run_rows() const { return std::max<std::int64_t>(1, kRunQueries / heads()); }

  static constexpr std::int64_t kRunQueries = 192;
};

class BlockVisits {
 public:
  static std::int64_t scratch_bytes(const AttentionCall& call) {
    return TaskScratch::bytes_for<std::int64_t>(call.run_rows()) +
           TaskScratch::bytes_for<Visit>(visits_max(call));
  }

  BlockVisits(const AttentionCall& call, const RowRun& run, std::int64_t kv_head,
              TaskScratch::Slice& slice)
      : call_(call),
        run_(run),
        tokens_(slice.take<std::int64_t>(call.run_rows())),
        visits_(slice.take<Visit>(visits_max(call))) {
    for (std::int64_t r = 0; r < run.rows; ++r)
      if (seen(r).slot() > seen(last_row_).slot()) last_row_ = r;
    if (call.blocks == nullptr) return;
    const std::int64_t topk = call.blocks->dim(2);
    for (std::int64_t r = 0; r < run.rows; ++r) {
      const std::int32_t* list = call.blocks->row<std::int32_t>(run.first + r) + kv_head * topk;
      for (std::int64_t i = 0; i < topk; ++i) {
        if (list[i] < 0) continue;
        M3_CHECK(list[i] < seen(r).count(), "block {} is not visible from slot {}", list[i],
                 seen(r).slot());
        visits_[count_++] = {list[i], r};
      }
    }
    std::sort(visits_, visits_ + count_);
  }

  // Whether any row of a run attends to a block in [first, last), found without more ado.
  static bool any(const AttentionCall& call, const RowRun& run, std::int64_t kv_head,
                  std::int64_t first, std::int64_t last) {
    if (call.blocks == nullptr) return true;
    const std::int64_t topk = call.blocks->dim(2);
    for (std::int64_t r = 0; r < run.rows; ++r) {
      const std::int32_t* list = call.blocks->row<std::int32_t>(run.first + r) + kv_head * topk;
      if (std::any_of(list, list + topk, [&](std::int64_t b) { return b >= first && b < last; }))
        return true;
    }
    return false;
  }

  // The first block that any row attends to and that is not below `from`; kNoBlock: none.
  std::int64_t next(std::int64_t from) const {
    if (call_.blocks == nullptr) return from < seen(last_row_).count() ? from : kNoBlock;
    const Visit* visit = std::lower_bound(visits_, visits_ + count_, Visit{from, 0});
    return visit == visits_ + count_ ? kNoBlock : visit->block;
  }

  std::int64_t page(std::int64_t block) const { return seen(last_row_).page(block); }

  // body(row of the run, rows, how many tokens each attends to) for neighbours that attend to any
  // token of the block.
  template <typename Body>
  void for_each_range(std::int64_t block, const Body& body) const {
    find_tokens(block);
    for (std::int64_t r = 0; r < run_.rows;) {
      std::int64_t end = r;
      while (end < run_.rows && tokens_[end] > 0) ++end;
      if (end > r) body(r, end - r, tokens_ + r);
      r = end + 1;
    }
  }

  // body(row of the run, rows, tokens) for neighbours that attend to the same tokens of the block.
  template <typename Body>
  void for_each_span(std::int64_t block, const Body& body) const {
    find_tokens(block);
    for (std::int64_t r = 0; r < run_.rows;) {
      std::int64_t end = r + 1;
      while (end < run_.rows && tokens_[end] == tokens_[r]) ++end;
      if (tokens_[r] > 0) body(r, end - r, tokens_[r]);
      r = end;
    }
  }

 private:
  struct Visit {
    std::int64_t block;
    std::int64_t row;  // of the run
    auto operator<=>(const Visit&) const = default;
  };
  static std::int64_t visits_max(const AttentionCall& call) {
    return call.blocks == nullptr ? 0 : call.run_rows() * call.blocks->dim(2);
  }
  SeenPages seen(std::int64_t row) const {
    return SeenPages(call_.rows, run_.first + row, call_.cache.page_tokens);
  }

  // Of a block, how many tokens each row attends to.
  void find_tokens(std::int64_t block) const {
    if (call_.blocks == nullptr) {
      for (std::int64_t r = 0; r < run_.rows; ++r)
        tokens_[r] = std::max<std::int64_t>(0, seen(r).tokens(block));
      return;
    }
    std::fill_n(tokens_, run_.rows, 0);
    const Visit* visit = std::lower_bound(visits_, visits_ + count_, Visit{block, 0});
    for (; visit < visits_ + count_ && visit->block == block; ++visit)
      tokens_[visit->row] = seen(visit->row).tokens(block);
  }

  const AttentionCall& call_;
  const RowRun run_;
  std::int64_t* tokens_;  // [rows]
  Visit* visits_;         // with lists: ascending by block, then row
  std::int64_t count_ = 0;
  std::int64_t last_row_ = 0;  // the one that sees most
};

}  // namespace m3::cpu
