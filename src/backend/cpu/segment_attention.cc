// Attention of the vision tower (spec: vision §6.1, §6.2): both of its products run on the dot
// kernel. Keys are rounded to bfloat16 and lie by head, values likewise and transposed, so that a
// head's keys, and each lane of its values, are rows of a weight. A run of rows then takes its
// scores over the whole segment, the softmax, and the mix of the values. What a row gets does not
// depend on the rows of its run: every sum is over the whole segment in one order.
#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

// Scores of one run: with the keys and values that pass by, they stay in the second-level cache.
constexpr std::int64_t kScoreBytes = 384 << 10;
constexpr std::int64_t kRunRowsMax = 96;
constexpr std::int64_t kRunRowsMin = 8;
// Values are transposed in squares that stay in the first-level cache.
constexpr std::int64_t kSquare = 32;

struct SegmentCall {
  const Kernels& kernels;
  const Tensor& q;
  std::int64_t dim;
  float scale;
  const Tensor& out;
  const std::uint16_t* keys;    // [heads, rows, dim]
  const std::uint16_t* values;  // [heads], and for each segment of each head [dim, segment rows]

  std::int64_t rows() const { return q.dim(0); }
};

// Rows of one segment that are computed together.
struct SegmentRun {
  std::int64_t segment_first, segment_rows;
  std::int64_t first, rows;
};

std::int64_t run_rows(std::int64_t segment_rows) {
  const std::int64_t fits = kScoreBytes / (4 * std::max<std::int64_t>(1, segment_rows));
  return std::clamp(fits, kRunRowsMin, kRunRowsMax);
}

std::int64_t scratch_bytes(const Kernels& kernels, std::int64_t segment_rows, std::int64_t dim) {
  const std::int64_t rows = run_rows(segment_rows);
  const auto packed = [&](std::int64_t k) {
    return TaskScratch::bytes_for<std::byte>(rows * (kernels.packed_bytes(k) + kPackedPadding));
  };
  return TaskScratch::bytes_for<float>(rows * segment_rows) + packed(segment_rows) + packed(dim) +
         TaskScratch::bytes_for<void*>(rows) + 2 * TaskScratch::bytes_for<float>(rows) +
         TaskScratch::bytes_for<std::byte>(kDotScratchBytes);
}

// One run and one head.
class RunHead {
 public:
  RunHead(const SegmentCall& call, const SegmentRun& run, std::int64_t head,
          TaskScratch::Slice& slice)
      : call_(call),
        run_(run),
        head_(head),
        scores_(slice.take<float>(run.rows * run.segment_rows)),
        packed_queries_(slice.take<std::byte>(run.rows * stride(call.dim))),
        packed_scores_(slice.take<std::byte>(run.rows * stride(run.segment_rows))),
        pointers_(slice.take<const void*>(run.rows)),
        largest_(slice.take<float>(run.rows)),
        sums_(slice.take<float>(run.rows)),
        dot_scratch_(slice.take<std::byte>(kDotScratchBytes)) {}

  void compute() {
    const std::int64_t n = run_.segment_rows, dim = call_.dim, base = head_ * call_.rows() * dim;
    pack(call_.q.row<float>(run_.first) + head_ * dim, call_.q.dim(1), dim, packed_queries_);
    multiply(call_.keys + base + run_.segment_first * dim, n, dim, scores_, n);
    call_.kernels.softmax_page(scores_, n, run_.rows, n, call_.scale, largest_, sums_);
    pack(scores_, n, n, packed_scores_);
    float* out = call_.out.row<float>(run_.first) + head_ * dim;
    const std::int64_t width = call_.out.dim(1);
    multiply(call_.values + base + run_.segment_first * dim, dim, n, out, width);
    for (std::int64_t r = 0; r < run_.rows; ++r)
      call_.kernels.scale_add(out + r * width, 1 / sums_[r], nullptr, dim, out + r * width);
  }

 private:
  std::int64_t stride(std::int64_t k) const {
    return call_.kernels.packed_bytes(k) + kPackedPadding;
  }

  // The run's rows of x, `k` wide and `x_stride` apart, to pointers_.
  void pack(const float* x, std::int64_t x_stride, std::int64_t k, std::byte* packed) {
    for (std::int64_t r = 0; r < run_.rows; ++r) {
      call_.kernels.pack(x + r * x_stride, k, packed + r * stride(k));
      pointers_[r] = packed + r * stride(k);
    }
  }

  // The packed rows times a weight [outputs, k] of bfloat16.
  void multiply(const std::uint16_t* w, std::int64_t outputs, std::int64_t k, float* out,
                std::int64_t out_stride) const {
    for (std::int64_t o = 0; o < outputs; o += kOutputBlock)
      call_.kernels.dot({.x = pointers_,
                         .rows = run_.rows,
                         .w = {WeightFormat::kBF16, w + o * k, nullptr},
                         .outputs = std::min(kOutputBlock, outputs - o),
                         .k = k,
                         .out = out + o,
                         .out_stride = out_stride,
                         .scratch = dot_scratch_});
  }

  const SegmentCall& call_;
  const SegmentRun run_;
  const std::int64_t head_;
  float* scores_;
  std::byte* packed_queries_;
  std::byte* packed_scores_;
  const void** pointers_;
  float* largest_;
  float* sums_;
  std::byte* dot_scratch_;
};

// out[i, t] = x[t, i] for t < tokens, i < dim; rows of x are `stride` apart.
void transpose(const Kernels& kernels, const float* x, std::int64_t stride, std::int64_t tokens,
               std::int64_t dim, std::uint16_t* out) {
  std::uint16_t rounded[kSquare][kSquare];
  for (std::int64_t t = 0; t < tokens; t += kSquare)
    for (std::int64_t i = 0; i < dim; i += kSquare) {
      const std::int64_t height = std::min(kSquare, tokens - t), width = std::min(kSquare, dim - i);
      for (std::int64_t y = 0; y < height; ++y)
        kernels.to_bf16(x + (t + y) * stride + i, width, rounded[y]);
      for (std::int64_t c = 0; c < width; ++c)
        for (std::int64_t y = 0; y < height; ++y) out[(i + c) * tokens + t + y] = rounded[y][c];
    }
}

std::vector<SegmentRun> cut_segments(const Tensor& segments) {
  std::vector<SegmentRun> runs;
  const std::int32_t* offset = segments.as<std::int32_t>();
  for (std::int64_t s = 0; s + 1 < segments.dim(0); ++s) {
    const std::int64_t first = offset[s], rows = offset[s + 1] - first, step = run_rows(rows);
    for (std::int64_t r = 0; r < rows; r += step)
      runs.push_back({first, rows, first + r, std::min(step, rows - r)});
  }
  return runs;
}

}  // namespace

void CpuBackend::segment_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const Tensor& segments, std::int64_t dim, float scale,
                                   const Tensor& out) {
  const std::int64_t count = expect_segments(q, k, v, segments, dim, out);
  const std::int64_t rows = q.dim(0), width = q.dim(1), heads = width / dim;
  if (rows == 0) return;
  auto* keys = segment_keys_.take<std::uint16_t>(rows * width);
  auto* values = segment_values_.take<std::uint16_t>(rows * width);
  for_each_task(pool_, count * heads, [&](std::int64_t task) {
    const std::int64_t segment = task / heads, head = task % heads;
    const std::int64_t first = segments.as<std::int32_t>()[segment];
    const std::int64_t tokens = segments.as<std::int32_t>()[segment + 1] - first;
    const std::int64_t at = (head * rows + first) * dim;
    for (std::int64_t t = 0; t < tokens; ++t)
      kernels_.to_bf16(k.row<float>(first + t) + head * dim, dim, keys + at + t * dim);
    transpose(kernels_, v.row<float>(first) + head * dim, width, tokens, dim, values + at);
  });

  const SegmentCall call{kernels_, q, dim, scale, out, keys, values};
  const std::vector<SegmentRun> runs = cut_segments(segments);
  std::int64_t bytes = 0;
  for (const SegmentRun& run : runs)
    bytes = std::max(bytes, scratch_bytes(kernels_, run.segment_rows, dim));
  tasks_.reserve(bytes);
  // Runs vary fastest: those of one head read the same keys and values at about the same time.
  for_each_task(pool_, std::ssize(runs) * heads, [&](std::int64_t task) {
    TaskScratch::Slice slice(tasks_);
    RunHead(call, runs[static_cast<std::size_t>(task % std::ssize(runs))], task / std::ssize(runs),
            slice)
        .compute();
  });
}

}  // namespace m3::cpu
