// x in the layout of the dot kernel of linear layers: packed rows, or panels of several
// (kernels.h).
#include <algorithm>

#include "backend/cpu/cpu_ops.h"

namespace m3::cpu {

PackedX CpuBackend::pack_x(const Tensor& x, XForms forms) {
  const std::int64_t rows = x.dim(0), k = x.dim(1);
  PackedX packed{.rows = rows, .panel_rows = kernels_.x_panel_rows};
  if (forms.int8) packed.int8 = pack_rows(packing_int8(), x.as<float>(), rows, k, packed_int8_);
  if (!forms.bf16) return packed;
  if (kernels_.x_panel_rows == 1) {
    packed.packed = pack_rows(packing(), x.as<float>(), rows, k, packed_);
    return packed;
  }
  input_rows_.resize(static_cast<std::size_t>(rows));
  for (std::int64_t r = 0; r < rows; ++r) input_rows_[static_cast<std::size_t>(r)] = r;
  x_panels_.clear();
  add_x_panels(0, rows);
  packed.packed = pack_x_panels(x);
  return packed;
}

// A row that several experts picked is packed once where rows are packed one by one, and by each of
// them where panels are: a panel is cheaper to copy than to put together while multiplying.
void CpuBackend::pack_groups(const Tensor& x, XForms forms, const std::int32_t* offsets,
                             std::int64_t groups) {
  const bool in_panels = kernels_.x_panel_rows > 1;
  const auto gather = [&](Packing packing, OpScratch& scratch, std::vector<const void*>& pointers) {
    const void* const* all = pack_rows(packing, x.as<float>(), x.dim(0), x.dim(1), scratch);
    pointers.clear();
    for (const std::int64_t row : input_rows_) pointers.push_back(all[row]);
    return pointers.data();
  };
  const void* const* int8 = nullptr;
  const void* const* packed = nullptr;
  if (forms.int8) int8 = gather(packing_int8(), packed_int8_, int8_pointers_);
  if (forms.bf16 && in_panels) {
    x_panels_.clear();
    for (std::int64_t g = 0; g < groups; ++g) add_x_panels(offsets[g], offsets[g + 1] - offsets[g]);
    packed = pack_x_panels(x);
  } else if (forms.bf16) {
    packed = gather(packing(), packed_, pointers_);
  }
  groups_x_.clear();
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t rows = offsets[g + 1] - offsets[g];
    groups_x_.push_back({packed, rows, kernels_.x_panel_rows, int8 ? int8 + offsets[g] : nullptr});
    if (packed != nullptr) packed += (rows + kernels_.x_panel_rows - 1) / kernels_.x_panel_rows;
  }
}

void CpuBackend::add_x_panels(std::int64_t first, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; r += kernels_.x_panel_rows)
    x_panels_.push_back({first + r, std::min(kernels_.x_panel_rows, rows - r)});
}

const void* const* CpuBackend::pack_x_panels(const Tensor& x) {
  const std::int64_t k = x.dim(1), count = std::ssize(x_panels_);
  pointers_.resize(x_panels_.size());
  std::int64_t bytes = 0;
  for (const RowRun& panel : x_panels_)
    bytes += kernels_.x_panel_bytes(k, panel.rows) + kPackedPadding;
  auto* at = packed_.take<std::byte>(bytes);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<std::size_t>(i);
    pointers_[index] = at;
    at += kernels_.x_panel_bytes(k, x_panels_[index].rows) + kPackedPadding;
  }
  for_each_task(pool_, count, [&](std::int64_t i) {
    const RowRun& panel = x_panels_[static_cast<std::size_t>(i)];
    const float* rows[kXPanelRows];
    for (std::int64_t r = 0; r < panel.rows; ++r)
      rows[r] = x.row<float>(input_rows_[static_cast<std::size_t>(panel.first + r)]);
    auto* packed = const_cast<void*>(pointers_[static_cast<std::size_t>(i)]);
    kernels_.pack_x_panel(rows, panel.rows, k, packed);
  });
  return pointers_.data();
}

}  // namespace m3::cpu
