// x in the layouts of the dot kernels of linear layers (kernels.h): packed rows, or panels of
// several.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/cpu/kernels.h"
#include "backend/cpu/scratch.h"
#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace m3::cpu {

// Rows of x as a dot kernel wants them.
struct PackedX {
  const void* const* packed = nullptr;  // [ceil(rows / panel_rows)], all but the last one full
  std::int64_t rows = 0;
  std::int64_t panel_rows = 1;
  const void* const* int8 = nullptr;  // [rows] rows as panel_dot_int8 wants them, or null
};

// What the weights of a call want of x.
struct XForms {
  bool bf16 = false;
  bool int8 = false;
};

// How rows are packed one by one: for dot, panel_dot_int8 and dot_f32.
struct Packing {
  std::int64_t (*bytes)(std::int64_t k);
  void (*pack)(const float* x, std::int64_t k, void* packed);
};
inline Packing bf16_packing(const Kernels& k) {
  return {k.packed_row_bytes, k.pack_row};
}
inline Packing int8_packing(const Kernels& k) {
  return {k.packed_bytes_int8, k.pack_int8};
}
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
  const void* const* pack_panels(const Tensor& x, std::span<const std::int64_t> input_rows);

  const Kernels& kernels_;
  ThreadPool& pool_;
  OpScratch packed_, packed_int8_;
  std::vector<const void*> pointers_, int8_pointers_;
  std::vector<std::int64_t> all_rows_;
  std::vector<Panel> panels_;
  std::vector<PackedX> groups_;
};

}  // namespace m3::cpu
