// How cached keys and values lie in memory, as ops see them: one layer of a pool of pages.
//
// A page holds `page_tokens` consecutive tokens of one sequence, and is the unit of block selection
// (page = block). K and V of one layer, page and K/V head are contiguous and 4 KiB aligned, so that
// they can be moved by a device or a disk in one piece.
//
// In which type and in which order numbers are kept is the choice of the backend that writes and
// reads them (Backend::cache_format()); who wants one number of a page asks PagePart.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "tensor/tensor.h"

namespace m3 {

// The order of a page's numbers.
// - kRows: token by token.
// - kPairs: what a product sums over lies in pairs, and beside them the outputs of that product:
//   x Kᵀ sums over the elements of a key, P V over tokens. So both run along lanes, and nothing is
//   laid out anew nor summed across lanes. Outputs are cut into panels of kPagePanel, which a
//   first-level cache holds; they are padded to multiples of kPageLanes.
enum class PageOrder : std::uint8_t { kRows, kPairs };
inline constexpr std::int64_t kPagePanel = 64;
inline constexpr std::int64_t kPageLanes = 16;

struct CacheFormat {
  DType kv = DType::kF32;     // F32, BF16 or F8_E4M3
  DType index = DType::kF32;  // of the index keys
  PageOrder order = PageOrder::kRows;

  bool operator==(const CacheFormat&) const = default;
};

// A matrix that is summed over `depth` and has `columns` outputs, in pairs (PageOrder::kPairs):
// [panels][pairs][columns of the panel][2].
struct PairedMatrix {
  std::int64_t depth = 0, columns = 0;

  std::int64_t pairs() const { return (depth + 1) / 2; }
  std::int64_t padded_columns() const {
    return (columns + kPageLanes - 1) / kPageLanes * kPageLanes;
  }
  std::int64_t elements() const { return 2 * pairs() * padded_columns(); }
  // Of the panel that begins with `column`.
  std::int64_t panel_columns(std::int64_t column) const {
    return std::min(kPagePanel, padded_columns() - column);
  }
  std::int64_t panel_place(std::int64_t column) const { return 2 * pairs() * column; }
  std::int64_t place(std::int64_t k, std::int64_t column) const {
    const std::int64_t within = column % kPagePanel, panel = column - within;
    return panel_place(panel) + 2 * (k / 2 * panel_columns(panel) + within) + k % 2;
  }
};

// Keys, values or index keys of one page: [tokens, dim].
struct PagePart {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  PageOrder order = PageOrder::kRows;
  bool sums_tokens = false;  // values; else keys
  std::int64_t tokens = 0;
  std::int64_t dim = 0;

  PairedMatrix paired() const {
    return sums_tokens ? PairedMatrix{tokens, dim} : PairedMatrix{dim, tokens};
  }
  // What it takes, padding included.
  std::int64_t elements() const {
    return order == PageOrder::kRows ? tokens * dim : paired().elements();
  }
  std::int64_t bytes() const { return elements() * dtype_size(dtype); }
  // Where element i of a token lies, in elements.
  std::int64_t place(std::int64_t token, std::int64_t i) const {
    if (order == PageOrder::kRows) return token * dim + i;
    return sums_tokens ? paired().place(token, i) : paired().place(i, token);
  }

  float get(std::int64_t token, std::int64_t i) const { return get_at(place(token, i)); }
  void set(std::int64_t token, std::int64_t i, float x) const { set_at(place(token, i), x); }
  // By place. Numbers are rounded to nearest, ties to even; e4m3 saturates.
  float get_at(std::int64_t place) const;
  void set_at(std::int64_t place, float x) const;
};

// K and V of one layer.
struct KvView {
  std::byte* base = nullptr;
  DType dtype = DType::kF32;
  PageOrder order = PageOrder::kRows;
  std::int64_t page_tokens = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t page_stride = 0;  // bytes from a page to the next page
  std::int64_t head_stride = 0;  // bytes from a head to the next head of the same page

  // K of one page and head; V right after it.
  PagePart keys(std::int64_t page, std::int64_t head) const {
    return {base + page * page_stride + head * head_stride,
            dtype,
            order,
            /*sums_tokens=*/false,
            page_tokens,
            head_dim};
  }
  PagePart values(std::int64_t page, std::int64_t head) const {
    PagePart part = keys(page, head);
    part.data += part.bytes();
    part.sums_tokens = true;
    return part;
  }
  // Of K and V of one page and head.
  std::int64_t head_bytes() const;
};

// Index keys of one layer: one key a token, shared by all index heads (spec: text-model §4).
struct IndexView {
  std::byte* base = nullptr;
  DType dtype = DType::kF32;
  PageOrder order = PageOrder::kRows;
  std::int64_t page_tokens = 0;
  std::int64_t dim = 0;
  std::int64_t page_stride = 0;  // bytes

  PagePart keys(std::int64_t page) const {
    return {base + page * page_stride, dtype, order, /*sums_tokens=*/false, page_tokens, dim};
  }
};

// What a training mask changes about what rows of whole sequences see (spec: training §2.2).
struct RowMask {
  // [rows, slots] F32: added to the scaled score of a row and a slot of its sequence; -infinity:
  // the row does not attend to it.
  Tensor bias;
  Tensor last_slots;  // [rows] I64: of each row's sequence
};

// Where the rows of a batch belong. A row at slot s of its sequence sees slots 0..s of it.
struct Rows {
  Tensor slots;  // [rows] I64: index of the row within its sequence; its own key is stored there
  Tensor sequences;   // [rows] I32: row of `pages`
  Tensor pages;       // [sequences, pages_max] I32: page id of each block of a sequence, -1 beyond
  RowMask mask = {};  // of training; empty: none

  // As attention to all blocks takes them: a mask is then all that hides, also what comes later.
  Rows seen_by(const Tensor* blocks) const {
    Rows seen = *this;
    if (mask.bias && blocks == nullptr) seen.slots = mask.last_slots;
    return seen;
  }
  // Of one row, by slot; null: there is no mask.
  const float* bias_of(std::int64_t row) const {
    return mask.bias ? mask.bias.row<float>(row) : nullptr;
  }
};

}  // namespace m3
