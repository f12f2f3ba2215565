#include "backend/cpu/panels.h"

#include <algorithm>
#include <cstring>

namespace m3::cpu {
namespace {

// e4m3's -0 says nothing that 0 does not, so its byte stands for NaN: like the subnormal numbers,
// and unlike NaN's own, it has no exponent, which is what the kernels look for.
std::uint32_t e4m3_byte(std::uint32_t bits) {
  if ((bits & 0x7f) == 0x7f) return 0x80;
  return bits == 0x80 ? 0 : bits;
}

// Columns 0 2 1 3.
std::uint32_t e4m3_word(std::uint32_t x) {
  const std::uint32_t sizes = x & 0x7f7f7f7f;
  const bool has_zero = ((sizes - 0x01010101) & ~sizes & 0x80808080) != 0;
  const bool has_nan = ((sizes + 0x01010101) & 0x80808080) != 0;
  if (has_zero || has_nan)
    x = e4m3_byte(x & 255) | e4m3_byte(x >> 8 & 255) << 8 | e4m3_byte(x >> 16 & 255) << 16 |
        e4m3_byte(x >> 24) << 24;
  return (x & 0xff0000ff) | (x >> 8 & 0xff00) | (x << 8 & 0xff0000);
}

// The low nibbles of four bytes, side by side.
std::uint32_t join_nibbles(std::uint32_t x) {
  const std::uint32_t low = x & 0x0f0f0f0f, pairs = low | low >> 4;
  return (pairs & 0xff) | (pairs >> 8 & 0xff00);
}

// What an output's four bytes become in a load.
std::uint32_t word_of(WeightFormat format, std::uint32_t x) {
  if (format == WeightFormat::kMxfp8) return e4m3_word(x);
  if (format == WeightFormat::kInt8 || format == WeightFormat::kBF16) return x;
  return join_nibbles(x) | join_nibbles(x >> 4) << 16;
}

// Blocks with a smaller E8M0 scale count as zeros: their products could be subnormal numbers, which
// some instructions take for zeros and others do not. 0 for formats without such scales.
std::uint8_t smallest_scale(WeightFormat format) {
  if (format == WeightFormat::kMxfp8) return 127 - 117;
  return format == WeightFormat::kMxfp4 ? 127 - 50 : 0;
}

// A panel's rows of one span, copied so that what lies beyond the weight is zeros.
struct SpanRows {
  std::uint8_t values[kPanelOutputs][kSpanColumns * 2];
  std::uint8_t scales[kPanelOutputs][kSpanColumns / 16 * 2];

  SpanRows(const WeightRows& w, std::int64_t outputs, std::int64_t k, std::int64_t panel,
           std::int64_t span) {
    std::memset(this, 0, sizeof *this);
    const std::int64_t value_row = value_row_bytes(w.format, k);
    const std::int64_t scale_row = scale_row_bytes(w.format, k);
    const std::int64_t value_span = value_row_bytes(w.format, kSpanColumns);
    const std::int64_t scale_span = scale_row_bytes(w.format, kSpanColumns);
    const std::int64_t rows = std::min(kPanelOutputs, outputs - panel * kPanelOutputs);
    for (std::int64_t n = 0; n < rows; ++n) {
      const std::int64_t row = panel * kPanelOutputs + n;
      copy(static_cast<const std::uint8_t*>(w.values) + row * value_row, span * value_span,
           value_row, value_span, values[n]);
      if (w.scales != nullptr)
        copy(w.scales + row * scale_row, span * scale_span, scale_row, scale_span, scales[n]);
    }
    if (smallest_scale(w.format) > 0) drop_smallest_blocks(w.format);
  }

 private:
  void drop_smallest_blocks(WeightFormat format) {
    const std::int64_t columns = block_columns(format), bytes = value_row_bytes(format, columns);
    for (std::int64_t n = 0; n < kPanelOutputs; ++n)
      for (std::int64_t b = 0; b < kSpanColumns / columns; ++b) {
        if (scales[n][b] >= smallest_scale(format)) continue;
        std::memset(values[n] + b * bytes, 0, static_cast<std::size_t>(bytes));
        scales[n][b] = 127;
      }
  }
  static void copy(const std::uint8_t* row, std::int64_t at, std::int64_t end, std::int64_t count,
                   std::uint8_t* out) {
    std::memcpy(out, row + at, static_cast<std::size_t>(std::min(count, end - at)));
  }
};

void pack_scales(WeightFormat format, const SpanRows& rows, std::uint8_t* out) {
  const std::int64_t bytes = layout_of(format).scale_bytes;
  for (std::int64_t b = 0; b < kSpanColumns / block_columns(format); ++b)
    for (const auto& scales : rows.scales) {
      std::memcpy(out, scales + b * bytes, static_cast<std::size_t>(bytes));
      out += bytes;
    }
}

// Row after row: the writes, 64 bytes apart, stay within a span, which the first-level cache holds.
void pack_values(WeightFormat format, const SpanRows& rows, std::uint8_t* out) {
  const std::int64_t turns = blocks_in_turns(format);
  const std::int64_t loads = value_row_bytes(format, block_columns(format)) / 4;  // of a block
  for (const auto& row : rows.values) {
    const std::uint8_t* from = row;
    for (std::int64_t b = 0; b < kSpanColumns / block_columns(format); ++b)
      for (std::int64_t i = 0; i < loads; ++i, from += 4) {
        std::uint32_t x;
        std::memcpy(&x, from, sizeof x);
        x = word_of(format, x);
        const std::int64_t load = (b / turns * loads + i) * turns + b % turns;
        std::memcpy(out + load * kPanelOutputs * 4, &x, sizeof x);
      }
    out += 4;
  }
}

}  // namespace

std::int64_t weight_panel_bytes(WeightFormat format, std::int64_t outputs, std::int64_t k) {
  return panels_of(outputs) * panel_bytes(format, k) + kPanelPadding;
}

std::int64_t group_offset(WeightFormat format, std::int64_t k, std::int64_t group) {
  return group * (kGroupOutputs / kPanelOutputs) * panel_bytes(format, k);
}

void pack_panels(const WeightRows& w, std::int64_t outputs, std::int64_t k, std::int64_t first,
                 std::int64_t last, std::byte* out) {
  constexpr std::int64_t kGroupPanels = kGroupOutputs / kPanelOutputs;
  auto* to = reinterpret_cast<std::uint8_t*>(out) + group_offset(w.format, k, first);
  for (std::int64_t group = first; group < last; ++group) {
    const std::int64_t begin = group * kGroupPanels;
    const std::int64_t end = std::min(begin + kGroupPanels, panels_of(outputs));
    for (std::int64_t span = 0; span < spans_of(k); ++span)
      for (std::int64_t panel = begin; panel < end; ++panel, to += span_bytes(w.format)) {
        const SpanRows rows(w, outputs, k, panel, span);
        pack_scales(w.format, rows, to);
        pack_values(w.format, rows, to + scale_bytes_of_span(w.format));
      }
  }
  if (last == groups_of(outputs)) std::memset(to, 0, kPanelPadding);
}

}  // namespace m3::cpu
