// One step's rows: several sequences, decode and prefill alike.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/backend.h"

namespace m3 {

// Embeddings of pictures or clips in place of those of the placeholder ids (spec: vision §5.4).
struct Splice {
  std::int64_t first_row;  // of the batch
  Tensor features;         // [rows, hidden] F32
};

// Rows are grouped by sequence, ascending within one; the cache holds every earlier slot of it.
struct Batch {
  std::vector<std::int32_t> ids;        // [rows] token ids
  std::vector<std::int64_t> slots;      // [rows] index within the sequence; also the position
  std::vector<std::int32_t> sequences;  // [rows] which row of `pages`
  std::vector<std::int32_t> pages;      // [sequences, pages_max], -1 beyond a sequence's pages
  std::int64_t pages_max = 0;
  std::vector<std::int32_t> outputs;  // rows whose logits are wanted, ascending
  std::vector<Splice> splices = {};
  // Of training. What rotations are made of, [rows], in place of slots; and what rows see.
  std::vector<std::int64_t> positions = {};
  RowMask mask = {};
  // Also every row's hidden state after the final norm, which MTP continues, wanted or not.
  bool keep_final = false;
  // [rows]: which of the model's adapters each row runs with (model/adapters.h), -1: none. Empty
  // where none does.
  std::vector<std::int32_t> adapters = {};

  std::int64_t rows() const { return static_cast<std::int64_t>(ids.size()); }
  std::int64_t sequence_count() const {
    return pages_max == 0 ? 0 : static_cast<std::int64_t>(pages.size()) / pages_max;
  }

  // Appends the rows `tokens` of one more sequence, the first of them at `slot`. `pages` holds a
  // page for every slot up to the last. With `all_outputs` every row's logits are wanted, otherwise
  // none; want_last() asks for the last row's. `adapter`: that of all of them.
  void add_sequence(std::span<const std::int32_t> tokens, std::int64_t slot,
                    std::span<const std::int32_t> sequence_pages, bool all_outputs,
                    std::int32_t adapter = -1);
  // `pages` as ops read it; valid as long as the batch is not changed.
  Tensor page_table() const;
  // `positions` in the same manner; empty where slots are the positions.
  Tensor position_table() const;
  // Copies the splices over `embedded` [rows, hidden] F32.
  void splice_into(const Tensor& embedded, Backend& backend) const;
  void want_last() { outputs.push_back(static_cast<std::int32_t>(rows() - 1)); }
};

}  // namespace m3
