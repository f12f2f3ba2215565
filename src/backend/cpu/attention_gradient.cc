// The derivative of attention over the cache's pages (spec: training §2.7).
#include <algorithm>

#include "backend/cpu/attention_derivative.h"
#include "backend/cpu/cpu_gradients.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

std::vector<PageRows> load_pages(const AttentionCall& call,
                                 std::span<const WholeSequence> sequences, ThreadPool& pool,
                                 OpArena& arena) {
  const KvView& cache = call.cache;
  return make_pages(
      cache, sequences, pool, arena,
      [&](const WholeSequence& s, std::int64_t block, std::int64_t head, const PageRows& out) {
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
  const std::vector<WholeSequence> sequences = sequences_of(runs, rows, cache.page_tokens);
  arena_.reset();
  const std::vector<PageRows> pages = load_pages(call, sequences, pool_, arena_);
  differentiate(call, sequences, pages, {d_out, d_q, d_k, d_v}, pool_, tasks_, arena_);
}

}  // namespace m3::cpu
