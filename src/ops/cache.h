// How cached keys and values lie in memory, as ops see them: one layer of a pool of pages.
//
// A page holds `page_tokens` consecutive tokens of one sequence, and is the unit of block selection
// (page = block). K and V of one layer, page and K/V head are contiguous and 4 KiB aligned, so that
// they can be moved by a device or a disk in one piece.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/tensor.h"

namespace m3 {

// K and V of one layer.
struct KvView {
  std::byte* base = nullptr;
  DType dtype = DType::kF32;  // F32 or BF16
  std::int64_t page_tokens = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t page_stride = 0;  // bytes from a page to the next page
  std::int64_t head_stride = 0;  // bytes from a head to the next head of the same page

  // K [page_tokens, head_dim] of one page and head.
  Tensor keys(std::int64_t page, std::int64_t head) const {
    return {base + page * page_stride + head * head_stride, dtype, {page_tokens, head_dim}};
  }
  // V [page_tokens, head_dim], right after K.
  Tensor values(std::int64_t page, std::int64_t head) const {
    const std::int64_t offset = page_tokens * head_dim * dtype_size(dtype);
    return {
        base + page * page_stride + head * head_stride + offset, dtype, {page_tokens, head_dim}};
  }
};

// Index keys of one layer: one key a token, shared by all index heads (spec: text-model §4).
struct IndexView {
  std::byte* base = nullptr;
  DType dtype = DType::kF32;  // F32 or BF16
  std::int64_t page_tokens = 0;
  std::int64_t dim = 0;
  std::int64_t page_stride = 0;  // bytes

  // [page_tokens, dim].
  Tensor keys(std::int64_t page) const {
    return {base + page * page_stride, dtype, {page_tokens, dim}};
  }
};

// Where the rows of a batch belong. A row at slot s of its sequence sees slots 0..s of it.
struct Rows {
  Tensor slots;  // [rows] I64: index of the row within its sequence; its own key is stored there
  Tensor sequences;  // [rows] I32: row of `pages`
  Tensor pages;      // [sequences, pages_max] I32: page id of each block of a sequence, -1 beyond
};

}  // namespace m3
