#include "backend/cpu/gradient_products.h"

#include <emmintrin.h>

#include <algorithm>

#include "backend/cpu/panels.h"
#include "backend/cpu/weight_rows.h"

namespace m3::cpu {
namespace {

// Of a task: 384 KiB of sums, 128 KiB of y, and of x as much as its rows take for them, in a
// second-level cache of 1 MiB.
constexpr std::int64_t kProductRows = 384, kProductColumns = 256, kProductDepth = 256;
// Outputs that are decoded together where a weight is read as stored.
constexpr std::int64_t kDecodedRows = 16;

// Rows [first, first + count) of y and columns from `column` on, in pairs.
struct Piece {
  std::int64_t first, count;
  std::int64_t column, columns;
  std::uint16_t* out;
  static constexpr std::int64_t kStride = 2 * kProductColumns;

  std::uint16_t* pairs_of(std::int64_t d) const { return out + (d - first) / 2 * kStride; }
};

void fill_from_panels(const Kernels& kernels, const Matrix& w, const Piece& p) {
  constexpr std::int64_t kGroupPanels = kGroupOutputs / kPanelOutputs;
  const WeightFormat format = format_of(w);
  const std::int64_t bytes = span_bytes(format), panels = panels_of(w.rows);
  const std::int64_t first_span = p.column / kSpanColumns;
  const std::int64_t last_span = spans_of(p.column + p.columns);
  for (std::int64_t group = p.first / kGroupOutputs; group < groups_of(p.first + p.count);
       ++group) {
    const std::byte* base = w.packed + group_offset(format, w.cols, group);
    const std::int64_t in_group = std::min(kGroupPanels, panels - group * kGroupPanels);
    for (std::int64_t s = first_span; s < last_span; ++s)
      for (std::int64_t panel = 0; panel < in_group; ++panel)
        kernels.span_pairs(format, base + (s * in_group + panel) * bytes,
                           p.pairs_of(group * kGroupOutputs + panel * kPanelOutputs) +
                               2 * (s - first_span) * kSpanColumns,
                           Piece::kStride);
  }
}

void fill_from_rows(const Kernels& kernels, const Matrix& w, const Piece& p) {
  const WeightRows all = stored_rows(w);
  std::uint16_t rows[kDecodedRows * kProductColumns];
  for (std::int64_t d = p.first; d < p.first + p.count; d += kDecodedRows) {
    const std::int64_t count = std::min(kDecodedRows, p.first + p.count - d);
    kernels.decode(rows_from(all, d, w.cols), count, w.cols, p.column, p.column + p.columns, rows);
    if (count % 2 == 1) std::fill_n(rows + count * p.columns, p.columns, std::uint16_t{0});
    for (std::int64_t r = 0; r < count; r += 2) {
      const std::uint16_t* a = rows + r * p.columns;
      const std::uint16_t* b = a + p.columns;
      std::uint16_t* to = p.pairs_of(d + r);
      for (std::int64_t c = 0; c < p.columns; ++c) {
        to[2 * c] = a[c];
        to[2 * c + 1] = b[c];
      }
    }
  }
}

void fill(const Kernels& kernels, const RightSide& y, const Piece& p) {
  if (y.weight != nullptr) {
    if (y.weight->packed != nullptr) return fill_from_panels(kernels, *y.weight, p);
    return fill_from_rows(kernels, *y.weight, p);
  }
  const std::int64_t end = p.first + p.count;
  if (y.rows != nullptr) {
    for (std::int64_t d = p.first; d < end; d += 2)
      kernels.to_pairs(y.rows[d] + p.column, d + 1 < end ? y.rows[d + 1] + p.column : nullptr,
                       p.columns, p.pairs_of(d));
    return;
  }
  float a[kProductColumns], b[kProductColumns];
  for (std::int64_t d = p.first; d < end; d += 2) {
    for (std::int64_t c = 0; c < p.columns; ++c) {
      const float* row = y.columns->row<float>(p.column + c);
      a[c] = row[d];
      b[c] = d + 1 < end ? row[d + 1] : 0;
    }
    kernels.to_pairs(a, b, p.columns, p.pairs_of(d));
  }
}

struct Task {
  std::int64_t row, rows;
  std::int64_t column, columns;
};

std::int64_t column_blocks(const SumOfProducts& p) {
  return divide_up(p.columns, kProductColumns);
}
std::int64_t tasks_of(const SumOfProducts& p) {
  return divide_up(p.rows, kProductRows) * column_blocks(p);
}
// Blocks of rows as even as may be.
Task task_of(const SumOfProducts& p, std::int64_t index) {
  const std::int64_t blocks = divide_up(p.rows, kProductRows);
  const std::int64_t block = index / column_blocks(p);
  const std::int64_t row = block * p.rows / blocks;
  const std::int64_t column = index % column_blocks(p) * kProductColumns;
  return {row, (block + 1) * p.rows / blocks - row, column,
          std::min(kProductColumns, p.columns - column)};
}

void run(const Kernels& kernels, const SumOfProducts& p, const Task& task, float* sums,
         std::uint16_t* pairs) {
  bool begun = false;
  for (const Summand& s : p.summands)
    for (std::int64_t first = 0; first < s.depth; first += kProductDepth) {
      const std::int64_t count = std::min(kProductDepth, s.depth - first);
      fill(kernels, s.y, {first, count, task.column, task.columns, pairs});
      const RoundedRows x = s.x.from(task.row);
      kernels.multiply_pairs({.x = x.data + first,
                              .x_stride = x.stride,
                              .rows = task.rows,
                              .y = pairs,
                              .y_stride = Piece::kStride,
                              .columns = round_up(task.columns, kPairColumns),
                              .pairs = divide_up(count, 2),
                              .out = sums,
                              .out_stride = kProductColumns,
                              .adds = begun});
      begun = true;
    }
  for (std::int64_t r = 0; r < task.rows; ++r) {
    const float* from = sums + r * kProductColumns;
    float* to = p.out + (task.row + r) * p.columns + task.column;
    if (!begun) {
      if (!p.adds) std::fill_n(to, task.columns, 0.0f);
    } else if (p.adds) {
      kernels.add(from, task.columns, to);
    } else {
      std::copy_n(from, task.columns, to);
    }
  }
}

// to[c][r] = from[r][c] for 8 x 8 numbers.
void turn_8x8(const std::uint16_t* from, std::int64_t from_stride, std::uint16_t* to,
              std::int64_t to_stride) {
  __m128i a[8], b[8];
  for (int i = 0; i < 8; ++i)
    a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_stride));
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
    b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
  }
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm_unpacklo_epi16(b[i], b[i + 4]);
    a[2 * i + 1] = _mm_unpackhi_epi16(b[i], b[i + 4]);
  }
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
    b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
  }
  for (int i = 0; i < 8; ++i)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * to_stride), b[i]);
}

}  // namespace

void multiply_all(const Kernels& kernels, ThreadPool& pool, TaskScratch& tasks,
                  std::span<const SumOfProducts> products) {
  std::vector<std::int64_t> ends;
  for (const SumOfProducts& p : products)
    ends.push_back((ends.empty() ? 0 : ends.back()) + tasks_of(p));
  if (ends.empty()) return;
  constexpr std::int64_t kSums = kProductRows * kProductColumns;
  constexpr std::int64_t kPairs = kProductDepth * kProductColumns;
  tasks.reserve(TaskScratch::bytes_for<float>(kSums) +
                TaskScratch::bytes_for<std::uint16_t>(kPairs));
  for_each_task(pool, ends.back(), [&](std::int64_t i) {
    const auto at =
        static_cast<std::size_t>(std::upper_bound(ends.begin(), ends.end(), i) - ends.begin());
    const SumOfProducts& p = products[at];
    TaskScratch::Slice slice(tasks);
    float* sums = slice.take<float>(kSums);
    run(kernels, p, task_of(p, i - (at == 0 ? 0 : ends[at - 1])), sums,
        slice.take<std::uint16_t>(kPairs));
  });
}

void RowRounder::round(std::span<const float* const> x, std::int64_t columns, float factor,
                       std::uint16_t* out) {
  const std::int64_t stride = stride_of(columns);
  for_each_task(pool_, std::ssize(x), [&](std::int64_t r) {
    const float* from = x[static_cast<std::size_t>(r)];
    std::uint16_t* to = out + r * stride;
    if (factor == 1) {
      kernels_.to_bf16(from, columns, to);
    } else {
      constexpr std::int64_t kPart = 256;
      float scaled[kPart];
      for (std::int64_t at = 0; at < columns; at += kPart) {
        const std::int64_t count = std::min(kPart, columns - at);
        kernels_.scale_add(from + at, factor, nullptr, count, scaled);
        kernels_.to_bf16(scaled, count, to + at);
      }
    }
    if (columns % 2 == 1) to[columns] = 0;
  });
}

void RowRounder::turn(std::span<const float* const> x, std::int64_t columns, std::uint16_t* out) {
  constexpr std::int64_t kPart = 64;  // columns of a task
  const std::int64_t rows = std::ssize(x), stride = stride_of(rows);
  for_each_task(pool_, divide_up(columns, kPart), [&](std::int64_t task) {
    const std::int64_t column = task * kPart, count = std::min(kPart, columns - column);
    std::uint16_t from[8 * kPart] = {};
    for (std::int64_t row = 0; row < rows; row += 8) {
      const std::int64_t here = std::min<std::int64_t>(8, rows - row);
      for (std::int64_t r = 0; r < here; ++r)
        kernels_.to_bf16(x[static_cast<std::size_t>(row + r)] + column, count, from + r * kPart);
      for (std::int64_t r = here; r < 8; ++r)
        std::fill_n(from + r * kPart, kPart, std::uint16_t{0});
      for (std::int64_t c = 0; c < count; c += 8) {
        std::uint16_t turned[8 * 8];
        turn_8x8(from + c, kPart, turned, 8);
        for (std::int64_t i = 0; i < std::min<std::int64_t>(8, count - c); ++i)
          std::copy_n(turned + 8 * i, 8, out + (column + c + i) * stride + row);
      }
    }
  });
}

}  // namespace m3::cpu
