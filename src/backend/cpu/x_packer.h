// x in the layouts of the dot kernels of linear layers (kernels.h): packed rows, or panels of
// several.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/cpu/kernels.h"
#include "backend/cpu/scratch.h"
#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace m3::cpu {

// The forms in which products of linear layers want x: dot, and panel_dot of BF16 and MXFP8;
// panel_dot of the 4-bit formats; panel_dot_int8.
enum class XForm : std::uint8_t { kDot, kE2m1, kInt8 };
inline constexpr XForm kXForms[] = {XForm::kDot, XForm::kE2m1, XForm::kInt8};

// Of weights in panels.
inline XForm x_form(WeightFormat format) {
  if (format == WeightFormat::kInt8) return XForm::kInt8;
  const bool has_4_bits = layout_of(format).value_bits == 4;
  return has_4_bits ? XForm::kE2m1 : XForm::kDot;
}

// One of something for each form.
template <class T>
class PerXForm {
 public:
  T& operator[](XForm form) { return of_[static_cast<std::size_t>(form)]; }
  const T& operator[](XForm form) const { return of_[static_cast<std::size_t>(form)]; }

 private:
  std::array<T, std::size(kXForms)> of_{};
};

// Those that the weights of a call want.
using XForms = PerXForm<bool>;

// Rows of x as dot kernels want them.
struct PackedX {
  // Null where the form is not wanted. Each [rows] packed rows, or [ceil(rows / panel_rows)]
  // panels, all but the last one full.
  PerXForm<const void* const*> packed;
  std::int64_t rows = 0;
  PerXForm<std::int64_t> panel_rows = rows_one_by_one();

  // From row `row` on, the first of a panel.
  const void* const* from(XForm form, std::int64_t row) const {
    return packed[form] + row / panel_rows[form];
  }

  static PerXForm<std::int64_t> rows_one_by_one() {
    PerXForm<std::int64_t> rows;
    for (const XForm form : kXForms) rows[form] = 1;
    return rows;
  }
};

inline PackedX for_dot(const void* const* packed, std::int64_t rows) {
  PackedX x{.rows = rows};
  x.packed[XForm::kDot] = packed;
  return x;
}

// Rows that a table wants together.
inline std::int64_t panel_rows_of(const Kernels& k, XForm form) {
  return form == XForm::kInt8 ? 1 : k.x_panel_rows;
}

// How panels are, where there are more than one.
struct PanelPacking {
  std::int64_t (*bytes)(std::int64_t k, std::int64_t rows);
  void (*pack)(const float* const* x, std::int64_t rows, std::int64_t k, void* panel);
};
inline PanelPacking panel_packing_of(const Kernels& k, XForm form) {
  if (form == XForm::kE2m1) return {k.x_panel_bytes_e2m1, k.pack_x_panel_e2m1};
  return {k.x_panel_bytes, k.pack_x_panel};
}

// How rows are packed one by one.
struct Packing {
  std::int64_t (*bytes)(std::int64_t k);
  void (*pack)(const float* x, std::int64_t k, void* packed);
};
inline Packing packing_of(const Kernels& k, XForm form) {
  switch (form) {
    case XForm::kDot:
      return {k.packed_row_bytes, k.pack_row};
    case XForm::kE2m1:
      return {k.packed_bytes_e2m1, k.pack_e2m1};
    case XForm::kInt8:
      return {k.packed_bytes_int8, k.pack_int8};
  }
  __builtin_unreachable();
}
// For dot_f32.
inline Packing f32_packing(const Kernels& k) {
  return {k.packed_bytes_f32, k.pack_f32};
}

// The packed rows of x [rows, k], in order; valid until the scratch is taken again.
const void* const* pack_rows(ThreadPool& pool, Packing packing, const float* x, std::int64_t rows,
                             std::int64_t k, OpScratch& scratch);

// Memory and lists for one x at a time: what a call gives is valid until the next one.
class XPacker {
 public:
  XPacker(const Kernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

  // All rows of x [rows, k].
  PackedX pack(const Tensor& x, XForms forms);
  // Groups of rows: group g is the rows input_rows[offsets[g] .. offsets[g + 1]) of x. offsets
  // [groups + 1].
  std::span<const PackedX> pack_groups(const Tensor& x, std::span<const std::int64_t> input_rows,
                                       XForms forms, const std::int32_t* offsets,
                                       std::int64_t groups);

 private:
  // Consecutive entries of input_rows that share a panel.
  struct Panel {
    std::int64_t first, rows;
  };
  void add_panels(std::int64_t first, std::int64_t rows);
  const void* const* pack_panels(const Tensor& x, std::span<const std::int64_t> input_rows,
                                 XForm form);
  const void* const* pack_all(const Tensor& x, XForm form);

  const Kernels& kernels_;
  ThreadPool& pool_;
  PerXForm<OpScratch> scratch_;
  PerXForm<std::vector<const void*>> pointers_;
  std::vector<std::int64_t> all_rows_;
  std::vector<Panel> panels_;
  std::vector<PackedX> groups_;
};

}  // namespace m3::cpu
