#include "model/batch.h"

#include <algorithm>

namespace m3 {
namespace {

// Gives every row of `pages` the width `wider`, filled with -1.
void widen(std::vector<std::int32_t>& pages, std::int64_t width, std::int64_t wider) {
  std::vector<std::int32_t> out;
  for (std::size_t begin = 0; begin < pages.size(); begin += static_cast<std::size_t>(width)) {
    const auto row = pages.begin() + static_cast<std::ptrdiff_t>(begin);
    out.insert(out.end(), row, row + width);
    out.insert(out.end(), static_cast<std::size_t>(wider - width), -1);
  }
  pages = std::move(out);
}

}  // namespace

Tensor Batch::page_table() const {
  // Ops only read it; a tensor cannot say so.
  return {const_cast<std::int32_t*>(pages.data()), DType::kI32, {sequence_count(), pages_max}};
}

Tensor Batch::position_table() const {
  if (positions.empty()) return {};
  return {const_cast<std::int64_t*>(positions.data()), DType::kI64, {rows()}};
}

void Batch::splice_into(const Tensor& embedded, Backend& backend) const {
  for (const auto& [first, features] : splices)
    backend.copy(features, embedded.rows(first, first + features.dim(0)));
}

void Batch::add_sequence(std::span<const std::int32_t> tokens, std::int64_t slot,
                         std::span<const std::int32_t> sequence_pages, bool all_outputs,
                         std::int32_t adapter) {
  const auto needed = static_cast<std::int64_t>(sequence_pages.size());
  const auto sequence = static_cast<std::int32_t>(sequence_count());
  if (needed > pages_max) {
    if (pages_max > 0) widen(pages, pages_max, needed);
    pages_max = needed;
  }
  pages.insert(pages.end(), sequence_pages.begin(), sequence_pages.end());
  pages.insert(pages.end(), static_cast<std::size_t>(pages_max - needed), -1);
  if (adapter >= 0) adapters.resize(ids.size(), -1);
  if (adapter >= 0 || !adapters.empty()) adapters.insert(adapters.end(), tokens.size(), adapter);
  for (const std::int32_t token : tokens) {
    if (all_outputs) outputs.push_back(static_cast<std::int32_t>(rows()));
    ids.push_back(token);
    slots.push_back(slot++);
    sequences.push_back(sequence);
  }
}

}  // namespace m3
