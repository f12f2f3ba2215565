// Attention of the vision tower (spec: vision §6.1, §6.2). Keys and values are rounded to bfloat16
// and laid out by head in pairs, so that both products run along lanes (loops_pairs.h). A run of
// rows passes over the keys of its segment in blocks: scores, softmax against the largest score so
// far, and the mix of the values. Blocks begin where the segment does, and every sum goes through
// them in order: what a row gets does not depend on the rows of its run.
#include <algorithm>
#include <limits>

#include "backend/cpu/cpu_ops.h"
#include "ops/arguments.h"

namespace m3::cpu {
namespace {

// A run's scores, what they become, and the keys and values that pass by take 450 KiB: they stay in
// the second-level cache.
constexpr std::int64_t kRunRows = 96;
constexpr std::int64_t kBlockKeys = 512;
// Keys lie in panels: the columns that one pass over a run's queries multiplies, in the first-level
// cache.
constexpr std::int64_t kPanelKeys = 64;
static_assert(kBlockKeys % kPanelKeys == 0 && kPanelKeys % kPairColumns == 0);

// Rows of one segment that are computed together.
struct SegmentRun {
  std::int64_t segment_rows;
  std::int64_t segment_place;  // in the layout of keys and values
  std::int64_t first, rows;
};

// Where keys and values lie. A segment takes whole panels; what lies beyond its rows is zero.
struct SegmentLayout {
  std::int64_t dim;
  std::int64_t head_rows;  // of all segments together
  std::uint16_t* keys;     // [heads, head_rows / kPanelKeys, key_pairs(), kPanelKeys, 2]
  std::uint16_t* values;   // [heads, head_rows / 2, value_columns(), 2]

  std::int64_t key_pairs() const { return (dim + 1) / 2; }
  std::int64_t value_columns() const { return round_up(dim, kPairColumns); }
  // From the panel or the pair that begins with row `place` of a head.
  std::uint16_t* keys_at(std::int64_t head, std::int64_t place) const {
    return keys + (head * head_rows + place) * 2 * key_pairs();
  }
  std::uint16_t* values_at(std::int64_t head, std::int64_t place) const {
    return values + (head * head_rows + place) * value_columns();
  }
};

// One panel of keys; `rounded` has room for it.
void lay_out_keys(const Kernels& kernels, const Tensor& k, std::int64_t column, std::int64_t first,
                  std::int64_t rows, const SegmentLayout& layout, std::uint32_t* rounded,
                  std::uint16_t* out) {
  const std::int64_t pairs = layout.key_pairs();
  std::fill_n(rounded, kPanelKeys * pairs, 0u);
  for (std::int64_t t = 0; t < rows; ++t)
    kernels.to_bf16(k.row<float>(first + t) + column, layout.dim,
                    reinterpret_cast<std::uint16_t*>(rounded + t * pairs));
  auto* pair = reinterpret_cast<std::uint32_t*>(out);
  for (std::int64_t i = 0; i < pairs; ++i)
    for (std::int64_t t = 0; t < kPanelKeys; ++t) *pair++ = rounded[t * pairs + i];
}

// Two rows of values; `rounded` has room for them.
void lay_out_values(const Kernels& kernels, const Tensor& v, std::int64_t column,
                    std::int64_t first, std::int64_t rows, const SegmentLayout& layout,
                    std::uint16_t* rounded, std::uint16_t* out) {
  const std::int64_t columns = layout.value_columns();
  std::fill_n(rounded, 2 * columns, std::uint16_t{0});
  for (std::int64_t t = 0; t < rows; ++t)
    kernels.to_bf16(v.row<float>(first + t) + column, layout.dim, rounded + t * columns);
  for (std::int64_t c = 0; c < columns; ++c) {
    *out++ = rounded[c];
    *out++ = rounded[columns + c];
  }
}

// One run and one head.
class RunHead {
 public:
  static std::int64_t scratch_bytes(const SegmentLayout& layout) {
    return TaskScratch::bytes_for<std::uint16_t>(kRunRows * 2 * layout.key_pairs()) +
           TaskScratch::bytes_for<float>(kRunRows * kBlockKeys) +
           TaskScratch::bytes_for<std::uint16_t>(kRunRows * kBlockKeys) +
           TaskScratch::bytes_for<float>(kRunRows * layout.value_columns()) +
           3 * TaskScratch::bytes_for<float>(kRunRows);
  }

  RunHead(const Kernels& kernels, const SegmentLayout& layout, const SegmentRun& run,
          std::int64_t head, TaskScratch::Slice& slice)
      : kernels_(kernels),
        layout_(layout),
        run_(run),
        head_(head),
        queries_(slice.take<std::uint16_t>(kRunRows * 2 * layout.key_pairs())),
        scores_(slice.take<float>(kRunRows * kBlockKeys)),
        weights_(slice.take<std::uint16_t>(kRunRows * kBlockKeys)),
        mixed_(slice.take<float>(kRunRows * layout.value_columns())),
        largest_(slice.take<float>(kRunRows)),
        sums_(slice.take<float>(kRunRows)),
        factors_(slice.take<float>(kRunRows)) {}

  void compute(const Tensor& q, float scale, const Tensor& out) {
    const std::int64_t dim = layout_.dim;
    std::fill_n(queries_, run_.rows * 2 * layout_.key_pairs(), std::uint16_t{0});
    for (std::int64_t r = 0; r < run_.rows; ++r)
      kernels_.to_bf16(q.row<float>(run_.first + r) + head_ * dim, dim,
                       queries_ + r * 2 * layout_.key_pairs());
    std::fill_n(largest_, run_.rows, -std::numeric_limits<float>::infinity());
    std::fill_n(sums_, run_.rows, 0.0f);
    for (std::int64_t key = 0; key < run_.segment_rows; key += kBlockKeys)
      add_block(key, std::min(kBlockKeys, run_.segment_rows - key), scale);
    for (std::int64_t r = 0; r < run_.rows; ++r)
      kernels_.scale_add(mixed_ + r * layout_.value_columns(), 1 / sums_[r], nullptr, dim,
                         out.row<float>(run_.first + r) + head_ * dim);
  }

 private:
  void add_block(std::int64_t key, std::int64_t keys, float scale) {
    const std::int64_t place = run_.segment_place + key;
    for (std::int64_t panel = 0; panel < keys; panel += kPanelKeys)
      kernels_.multiply_pairs(
          {.x = queries_,
           .x_stride = 2 * layout_.key_pairs(),
           .rows = run_.rows,
           .y = layout_.keys_at(head_, place + panel),
           .y_stride = 2 * kPanelKeys,
           .columns = std::min(kPanelKeys, round_up(keys - panel, kPairColumns)),
           .pairs = layout_.key_pairs(),
           .out = scores_ + panel,
           .out_stride = kBlockKeys});
    kernels_.softmax_piece({.s = scores_,
                            .s_stride = kBlockKeys,
                            .rows = run_.rows,
                            .tokens = keys,
                            .scale = scale,
                            .m = largest_,
                            .l = sums_,
                            .factor = factors_,
                            .p = weights_,
                            .p_stride = kBlockKeys});
    const std::int64_t columns = layout_.value_columns();
    for (std::int64_t r = 0; key > 0 && r < run_.rows; ++r)
      if (factors_[r] != 1)
        kernels_.scale_add(mixed_ + r * columns, factors_[r], nullptr, columns,
                           mixed_ + r * columns);
    kernels_.multiply_pairs({.x = weights_,
                             .x_stride = kBlockKeys,
                             .rows = run_.rows,
                             .y = layout_.values_at(head_, place),
                             .y_stride = 2 * columns,
                             .columns = columns,
                             .pairs = (keys + 1) / 2,
                             .out = mixed_,
                             .out_stride = columns,
                             .adds = key > 0});
  }

  const Kernels& kernels_;
  const SegmentLayout& layout_;
  const SegmentRun run_;
  const std::int64_t head_;
  std::uint16_t* queries_;  // [rows, 2 * key_pairs]
  float* scores_;           // [rows, kBlockKeys]
  std::uint16_t* weights_;  // [rows, kBlockKeys]
  float* mixed_;            // [rows, value_columns]
  float* largest_;
  float* sums_;
  float* factors_;
};

std::vector<SegmentRun> cut_segments(const Tensor& segments) {
  std::vector<SegmentRun> runs;
  const std::int32_t* offset = segments.as<std::int32_t>();
  std::int64_t place = 0;
  for (std::int64_t s = 0; s + 1 < segments.dim(0); ++s) {
    const std::int64_t rows = offset[s + 1] - offset[s];
    for (std::int64_t r = 0; r < rows; r += kRunRows)
      runs.push_back({rows, place, offset[s] + r, std::min(kRunRows, rows - r)});
    place += round_up(rows, kPanelKeys);
  }
  return runs;
}

}  // namespace

void CpuBackend::segment_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const Tensor& segments, std::int64_t dim, float scale,
                                   const Tensor& out) {
  const std::int64_t count = expect_segments(q, k, v, segments, dim, out);
  const std::int64_t heads = q.dim(1) / dim;
  if (q.dim(0) == 0) return;
  // Panels of all segments: the first row and the number of rows of each.
  struct Panel {
    std::int64_t first, rows;
  };
  std::vector<Panel> panels;
  for (std::int64_t s = 0; s < count; ++s) {
    const std::int32_t* offset = segments.as<std::int32_t>() + s;
    for (std::int64_t row = offset[0]; row < offset[1]; row += kPanelKeys)
      panels.push_back({row, std::min(kPanelKeys, offset[1] - row)});
  }

  SegmentLayout layout{.dim = dim, .head_rows = std::ssize(panels) * kPanelKeys};
  layout.keys =
      segment_keys_.take<std::uint16_t>(heads * layout.head_rows * 2 * layout.key_pairs());
  layout.values =
      segment_values_.take<std::uint16_t>(heads * layout.head_rows * layout.value_columns());
  const std::int64_t rounded_keys = kPanelKeys * layout.key_pairs();
  tasks_.reserve(std::max(RunHead::scratch_bytes(layout),
                          TaskScratch::bytes_for<std::uint32_t>(rounded_keys) +
                              TaskScratch::bytes_for<std::uint16_t>(2 * layout.value_columns())));
  for_each_task(pool_, std::ssize(panels) * heads, [&](std::int64_t task) {
    const std::int64_t head = task % heads, index = task / heads, place = index * kPanelKeys;
    const Panel& panel = panels[static_cast<std::size_t>(index)];
    TaskScratch::Slice slice(tasks_);
    lay_out_keys(kernels_, k, head * dim, panel.first, panel.rows, layout,
                 slice.take<std::uint32_t>(rounded_keys), layout.keys_at(head, place));
    auto* rounded = slice.take<std::uint16_t>(2 * layout.value_columns());
    for (std::int64_t t = 0; t < panel.rows; t += 2)
      lay_out_values(kernels_, v, head * dim, panel.first + t,
                     std::min<std::int64_t>(2, panel.rows - t), layout, rounded,
                     layout.values_at(head, place + t));
  });

  const std::vector<SegmentRun> runs = cut_segments(segments);
  // Runs vary fastest: those of one head read the same keys and values at about the same time.
  for_each_task(pool_, std::ssize(runs) * heads, [&](std::int64_t task) {
    TaskScratch::Slice slice(tasks_);
    RunHead(kernels_, layout, runs[static_cast<std::size_t>(task % std::ssize(runs))],
            task / std::ssize(runs), slice)
        .compute(q, scale, out);
  });
}

}  // namespace m3::cpu
