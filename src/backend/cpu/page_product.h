// Products with the keys and values of a page, which lie in pairs (PageOrder::kPairs).
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/cpu_ops.h"
#include "ops/cache.h"

namespace m3::cpu {

// What this backend reads and writes.
template <typename View>
void expect_pairs(std::string_view what, const View& cache) {
  M3_CHECK(cache.order == PageOrder::kPairs && cache.dtype != DType::kF32,
           "{}: a cache of {}, or not in pairs", what, dtype_name(cache.dtype));
}

// out[r, c] (+)= sum over the first 2 * pairs k of x[r, k] * part[k, c]. What is beyond `columns`
// in out, up to a multiple of kPageLanes, is overwritten.
struct PageProduct {
  const std::uint16_t* x = nullptr;  // [rows, x_stride]
  std::int64_t x_stride = 0;
  std::int64_t rows = 0;
  const std::uint16_t* y = nullptr;  // the part in bfloat16
  PairedMatrix shape;
  std::int64_t columns = 0;
  std::int64_t pairs = 0;
  float* out = nullptr;  // [rows, out_stride]
  std::int64_t out_stride = 0;
  bool adds = false;
  const std::byte* ahead = nullptr;  // read next, as much as this part; null for nothing
  std::int64_t ahead_bytes = 0;
};

inline void multiply_page(const Kernels& kernels, const PageProduct& p) {
  for (std::int64_t column = 0; column < p.columns; column += kPagePanel) {
    const std::int64_t width = p.shape.panel_columns(column);
    const std::int64_t share = p.ahead_bytes * width / p.shape.padded_columns();
    kernels.multiply_pairs({.x = p.x,
                            .x_stride = p.x_stride,
                            .rows = p.rows,
                            .y = p.y + p.shape.panel_place(column),
                            .y_stride = 2 * width,
                            .columns = std::min(width, round_up(p.columns - column, kPageLanes)),
                            .pairs = p.pairs,
                            .out = p.out + column,
                            .out_stride = p.out_stride,
                            .adds = p.adds,
                            .ahead = p.ahead + p.ahead_bytes * column / p.shape.padded_columns(),
                            .ahead_bytes = share});
  }
}

// A part in bfloat16: itself, or widened into `room` [elements].
inline const std::uint16_t* in_bf16(const Kernels& kernels, const PagePart& part,
                                    std::uint16_t* room) {
  if (part.dtype == DType::kBF16) return reinterpret_cast<const std::uint16_t*>(part.data);
  kernels.widen_e4m3(reinterpret_cast<const std::uint8_t*>(part.data), part.elements(), room);
  return room;
}

// Elements that in_bf16() needs.
inline std::int64_t room_for(const PagePart& part) {
  return part.dtype == DType::kBF16 ? 0 : part.elements();
}

// Rows of x [dim] as the left side of a product with keys: rounded to bfloat16, an odd end padded.
inline void round_queries(const Kernels& kernels, const float* x, std::int64_t rows,
                          std::int64_t dim, std::uint16_t* out) {
  const std::int64_t stride = round_up(dim, 2);
  for (std::int64_t r = 0; r < rows; ++r) {
    kernels.to_bf16(x + r * dim, dim, out + r * stride);
    if (stride > dim) out[r * stride + dim] = 0;
  }
}

}  // namespace m3::cpu
