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

PackedX XPacker::pack(const Tensor& x, XForms forms) {
  const std::int64_t rows = x.dim(0), k = x.dim(1);
  PackedX packed{.rows = rows, .panel_rows = kernels_.x_panel_rows};
  if (forms.int8)
    packed.int8 = pack_rows(pool_, int8_packing(kernels_), x.as<float>(), rows, k, packed_int8_);
  if (!forms.bf16) return packed;
  if (kernels_.x_panel_rows == 1) {
    packed.packed = pack_rows(pool_, bf16_packing(kernels_), x.as<float>(), rows, k, packed_);
    return packed;
  }
  all_rows_.resize(static_cast<std::size_t>(rows));
  std::iota(all_rows_.begin(), all_rows_.end(), 0);
  panels_.clear();
  add_panels(0, rows);
  packed.packed = pack_panels(x, all_rows_);
  return packed;
}

// A row that several experts picked is packed once where rows are packed one by one, and by each of
// them where panels are: a panel is cheaper to copy than to put together while multiplying.
std::span<const PackedX> XPacker::pack_groups(const Tensor& x,
                                              std::span<const std::int64_t> input_rows,
                                              XForms forms, const std::int32_t* offsets,
                                              std::int64_t groups) {
  const bool in_panels = kernels_.x_panel_rows > 1;
  const auto gather = [&](Packing packing, OpScratch& scratch, std::vector<const void*>& pointers) {
    const void* const* all = pack_rows(pool_, packing, x.as<float>(), x.dim(0), x.dim(1), scratch);
    pointers.clear();
    for (const std::int64_t row : input_rows) pointers.push_back(all[row]);
    return pointers.data();
  };
  const void* const* int8 = nullptr;
  const void* const* packed = nullptr;
  if (forms.int8) int8 = gather(int8_packing(kernels_), packed_int8_, int8_pointers_);
  if (forms.bf16 && in_panels) {
    panels_.clear();
    for (std::int64_t g = 0; g < groups; ++g) add_panels(offsets[g], offsets[g + 1] - offsets[g]);
    packed = pack_panels(x, input_rows);
  } else if (forms.bf16) {
    packed = gather(bf16_packing(kernels_), packed_, pointers_);
  }
  groups_.clear();
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t rows = offsets[g + 1] - offsets[g];
    groups_.push_back({packed, rows, kernels_.x_panel_rows, int8 ? int8 + offsets[g] : nullptr});
    if (packed != nullptr) packed += (rows + kernels_.x_panel_rows - 1) / kernels_.x_panel_rows;
  }
  return groups_;
}

void XPacker::add_panels(std::int64_t first, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; r += kernels_.x_panel_rows)
    panels_.push_back({first + r, std::min(kernels_.x_panel_rows, rows - r)});
}

const void* const* XPacker::pack_panels(const Tensor& x, std::span<const std::int64_t> input_rows) {
  const std::int64_t k = x.dim(1), count = std::ssize(panels_);
  pointers_.resize(panels_.size());
  std::int64_t bytes = 0;
  for (const Panel& panel : panels_)
    bytes += kernels_.x_panel_bytes(k, panel.rows) + kPackedPadding;
  auto* at = packed_.take<std::byte>(bytes);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<std::size_t>(i);
    pointers_[index] = at;
    at += kernels_.x_panel_bytes(k, panels_[index].rows) + kPackedPadding;
  }
  for_each_task(pool_, count, [&](std::int64_t i) {
    const Panel& panel = panels_[static_cast<std::size_t>(i)];
    const float* rows[kXPanelRows];
    for (std::int64_t r = 0; r < panel.rows; ++r)
      rows[r] = x.row<float>(input_rows[static_cast<std::size_t>(panel.first + r)]);
    auto* packed = const_cast<void*>(pointers_[static_cast<std::size_t>(i)]);
    kernels_.pack_x_panel(rows, panel.rows, k, packed);
  });
  return pointers_.data();
}

}  // namespace m3::cpu
