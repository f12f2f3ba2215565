// x in the layout of the dot kernel of linear layers: packed rows, or panels of several
// (kernels.h).
#include <algorithm>

#include "backend/cpu/cpu_ops.h"

namespace m3::cpu {

PackedX CpuBackend::pack(const Tensor& x) {
  const std::int64_t rows = x.dim(0);
  if (kernels_.panel_rows == 1)
    return {pack_rows(packing(), x.as<float>(), rows, x.dim(1), packed_), rows};
  input_rows_.resize(static_cast<std::size_t>(rows));
  for (std::int64_t r = 0; r < rows; ++r) input_rows_[static_cast<std::size_t>(r)] = r;
  panels_.clear();
  add_panels(0, rows);
  return {pack_panels(x), rows, kernels_.panel_rows};
}

// A row that several experts picked is packed once where rows are packed one by one, and by each of
// them where panels are: a panel is cheaper to copy than to put together while multiplying.
void CpuBackend::pack_groups(const Tensor& x, const std::int32_t* offsets, std::int64_t groups) {
  const bool in_panels = kernels_.panel_rows > 1;
  groups_x_.clear();
  panels_.clear();
  const void* const* packed = nullptr;
  if (in_panels) {
    for (std::int64_t g = 0; g < groups; ++g) add_panels(offsets[g], offsets[g + 1] - offsets[g]);
    packed = pack_panels(x);
  } else {
    const void* const* all = pack_rows(packing(), x.as<float>(), x.dim(0), x.dim(1), packed_);
    pointers_.clear();
    for (const std::int64_t row : input_rows_) pointers_.push_back(all[row]);
    packed = pointers_.data() + offsets[0];
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t rows = offsets[g + 1] - offsets[g];
    groups_x_.push_back({packed, rows, kernels_.panel_rows});
    packed += (rows + kernels_.panel_rows - 1) / kernels_.panel_rows;
  }
}

void CpuBackend::add_panels(std::int64_t first, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; r += kernels_.panel_rows)
    panels_.push_back({first + r, std::min(kernels_.panel_rows, rows - r)});
}

const void* const* CpuBackend::pack_panels(const Tensor& x) {
  const std::int64_t k = x.dim(1), count = std::ssize(panels_);
  pointers_.resize(panels_.size());
  std::int64_t bytes = 0;
  for (const RowRun& panel : panels_) bytes += kernels_.panel_bytes(k, panel.rows) + kPackedPadding;
  auto* at = packed_.take<std::byte>(bytes);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<std::size_t>(i);
    pointers_[index] = at;
    at += kernels_.panel_bytes(k, panels_[index].rows) + kPackedPadding;
  }
  for_each_task(pool_, count, [&](std::int64_t i) {
    const RowRun& panel = panels_[static_cast<std::size_t>(i)];
    const float* rows[kPanelRows];
    for (std::int64_t r = 0; r < panel.rows; ++r)
      rows[r] = x.row<float>(input_rows_[static_cast<std::size_t>(panel.first + r)]);
    auto* packed = const_cast<void*>(pointers_[static_cast<std::size_t>(i)]);
    kernels_.pack_panel(rows, panel.rows, k, packed);
  });
  return pointers_.data();
}

}  // namespace m3::cpu
