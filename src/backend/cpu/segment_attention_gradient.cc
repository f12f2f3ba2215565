// The derivative of the vision tower's attention (spec: training §2.7): segments are sequences
// whose rows see all of them, each head with keys of its own.
#include <algorithm>

#include "backend/cpu/attention_derivative.h"
#include "backend/cpu/cpu_gradients.h"
#include "ops/arguments.h"

namespace m3::cpu {
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
  const std::vector<WholeSequence> sequences = sequences_of(runs, rows.own, kSegmentPage);
  const std::vector<PageRows> pages = make_pages(
      shape, sequences, pool_, arena_,
      [&](const WholeSequence& s, std::int64_t block, std::int64_t head, const PageRows& page) {
        const std::int64_t first = block * kSegmentPage;
        const auto rows_of = [&](const Tensor& x) {
          return [&x, row = s.first_row + first, column = head * dim](std::int64_t t) {
            return x.row<float>(row + t) + column;
          };
        };
        fill_page(kernels_, shape, std::min(kSegmentPage, s.tokens - first), rows_of(k), rows_of(v),
                  page);
      });
  differentiate(call, sequences, pages, {d_out, d_q, d_k, d_v}, pool_, tasks_, arena_);
}

}  // namespace m3::cpu
