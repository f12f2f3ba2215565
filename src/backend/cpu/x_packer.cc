#include "backend/cpu/x_packer.h"

#include <algorithm>
#include <numeric>

namespace m3::cpu {

const void* const* pack_rows(ThreadPool& pool, Packing packing, const float* x, std::int64_t rows,
                             std::int64_t k, OpScratch& scratch) {
  const std::int64_t stride = packing.bytes(k) + kPackedPadding;
  const std::int64_t pointer_bytes =
      (rows * static_cast<std::int64_t>(sizeof(void*)) + 63) / 64 * 64;
  auto* bytes = scratch.take<std::byte>(pointer_bytes + rows * stride);
  auto** pointers = reinterpret_cast<const void**>(bytes);
  std::byte* packed = bytes + pointer_bytes;
  const std::int64_t grain = std::max<std::int64_t>(1, 32768 / std::max<std::int64_t>(1, k));
  for_ranges(pool, rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      pointers[t] = packed + t * stride;
      packing.pack(x + t * k, k, packed + t * stride);
    }
  });
  return pointers;
}

const void* const* XPacker::pack_all(const Tensor& x, XForm form) {
  return pack_rows(pool_, packing_of(kernels_, form), x.as<float>(), x.dim(0), x.dim(1),
                   scratch_[form]);
}

PackedX XPacker::pack(const Tensor& x, XForms forms) {
  const std::int64_t rows = x.dim(0);
  all_rows_.resize(static_cast<std::size_t>(rows));
  std::iota(all_rows_.begin(), all_rows_.end(), 0);
  const std::int32_t offsets[] = {0, static_cast<std::int32_t>(rows)};
  return pack_groups(x, all_rows_, forms, offsets, 1).front();
}

// A row that several experts picked is packed once where rows are packed one by one, and by each of
// them where panels are: a panel is cheaper to copy than to put together while multiplying.
std::span<const PackedX> XPacker::pack_groups(const Tensor& x,
                                              std::span<const std::int64_t> input_rows,
                                              XForms forms, const std::int32_t* offsets,
                                              std::int64_t groups) {
  groups_.clear();
  for (std::int64_t g = 0; g < groups; ++g)
    groups_.push_back({.rows = offsets[g + 1] - offsets[g]});
  for (const XForm form : kXForms) {
    if (!forms[form]) continue;
    const std::int64_t panel_rows = panel_rows_of(kernels_, form);
    const void* const* packed;
    if (panel_rows > 1) {
      panels_.clear();
      for (std::int64_t g = 0; g < groups; ++g)
        add_panels(offsets[g], groups_[static_cast<std::size_t>(g)].rows);
      packed = pack_panels(x, input_rows, form);
    } else {
      const void* const* all = pack_all(x, form);
      pointers_[form].clear();
      for (const std::int64_t row : input_rows) pointers_[form].push_back(all[row]);
      packed = pointers_[form].data();
    }
    for (PackedX& group : groups_) {
      group.packed[form] = packed;
      group.panel_rows[form] = panel_rows;
      packed += divide_up(group.rows, panel_rows);
    }
  }
  return groups_;
}

void XPacker::add_panels(std::int64_t first, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; r += kernels_.x_panel_rows)
    panels_.push_back({first + r, std::min(kernels_.x_panel_rows, rows - r)});
}

const void* const* XPacker::pack_panels(const Tensor& x, std::span<const std::int64_t> input_rows,
                                        XForm form) {
  const PanelPacking packing = panel_packing_of(kernels_, form);
  const std::int64_t k = x.dim(1), count = std::ssize(panels_);
  auto& pointers = pointers_[form];
  pointers.resize(panels_.size());
  std::int64_t bytes = 0;
  for (const Panel& panel : panels_) bytes += packing.bytes(k, panel.rows) + kPackedPadding;
  auto* at = scratch_[form].take<std::byte>(bytes);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<std::size_t>(i);
    pointers[index] = at;
    at += packing.bytes(k, panels_[index].rows) + kPackedPadding;
  }
  for_each_task(pool_, count, [&](std::int64_t i) {
    const Panel& panel = panels_[static_cast<std::size_t>(i)];
    const float* rows[kXPanelRows];
    for (std::int64_t r = 0; r < panel.rows; ++r)
      rows[r] = x.row<float>(input_rows[static_cast<std::size_t>(panel.first + r)]);
    packing.pack(rows, panel.rows, k, const_cast<void*>(pointers[static_cast<std::size_t>(i)]));
  });
  return pointers.data();
}

}  // namespace m3::cpu
