#include "apps/mask_reader.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

namespace m3 {
namespace {

constexpr double kHides = -1e9;

using Shape = std::vector<std::int64_t>;
using Entries = std::vector<const Json*>;

std::string text_of(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Nested lists of one shape, and what is in the innermost.
struct NestedLists {
  Shape shape;
  Entries entries;
};

Status append(const Json& list, std::size_t depth, NestedLists& lists) {
  if (depth == lists.shape.size()) {
    if (list.is_array()) return fail("has a list among its entries");
    lists.entries.push_back(&list);
    return {};
  }
  if (!list.is_array() || std::ssize(list) != lists.shape[depth])
    return fail("is not rectangular: expected {} everywhere", text_of(lists.shape));
  for (const Json& inner : list) M3_TRY_STATUS(append(inner, depth + 1, lists));
  return {};
}

Result<NestedLists> nested_lists(const Json& json) {
  NestedLists lists;
  for (const Json* at = &json; at->is_array(); at = &(*at)[0]) {
    lists.shape.push_back(std::ssize(*at));
    if (at->empty()) break;
  }
  M3_TRY_STATUS(append(json, 0, lists));
  return lists;
}

Result<TrainingMask> read_documents(std::span<const Json* const> entries) {
  TrainingMask mask;
  for (const Json* entry : entries) {
    const bool whole = entry->is_number_integer();
    if (!entry->is_boolean() && (!whole || entry->get<std::int64_t>() < 0 ||
                                 entry->get<std::int64_t>() > std::ssize(entries)))
      return fail("holds {}, expected true, false, or 0 for padding and 1, 2, ... for documents",
                  entry->dump());
    mask.documents.push_back(whole ? entry->get<std::int32_t>() : entry->get<bool>());
  }
  return mask;
}

Result<float> read_addend(const Json& entry) {
  if (entry == "-inf" || entry == "-Infinity") return -std::numeric_limits<float>::infinity();
  if (!entry.is_number_float() || !(entry.get<double>() < -kHides))
    return fail(
        "holds {}, expected true or false everywhere, or else \"-inf\" and numbers with a point "
        "below 1e9, which are added",
        entry.dump());
  const auto value = entry.get<double>();
  return value <= kHides ? -std::numeric_limits<float>::infinity() : static_cast<float>(value);
}

Result<TrainingMask> read_pairs(std::span<const Json* const> entries, std::int64_t tokens) {
  if (std::ranges::all_of(entries, [](const Json* entry) { return entry->is_boolean(); })) {
    std::vector<bool> attends;
    for (const Json* entry : entries) attends.push_back(entry->get<bool>());
    return boolean_mask(attends, tokens);
  }
  std::vector<float> bias;
  for (const Json* entry : entries) {
    M3_TRY(const float addend, read_addend(*entry));
    bias.push_back(addend);
  }
  return additive_mask(std::move(bias), tokens);
}

}  // namespace

Result<TrainingMask> read_mask(const Json& json, std::int64_t tokens) {
  M3_TRY(const NestedLists lists, nested_lists(json));
  if (lists.shape == Shape{tokens}) return read_documents(lists.entries);
  if (lists.shape == Shape{1, 1, tokens, tokens}) return read_pairs(lists.entries, tokens);
  return fail("has the shape {}, expected [{}] or [1, 1, {}, {}] for {} tokens",
              text_of(lists.shape), tokens, tokens, tokens, tokens);
}

Result<std::vector<TrainingMask>> read_batch_mask(const Json& json,
                                                  const std::vector<std::int64_t>& lengths) {
  const std::int64_t count = std::ssize(lengths), tokens = lengths.at(0);
  if (std::ranges::any_of(lengths, [&](std::int64_t length) { return length != tokens; }))
    return fail("is of sequences of different lengths; give each its own");
  M3_TRY(const NestedLists lists, nested_lists(json));
  const bool pairs = lists.shape.size() == 4;
  const bool shared = pairs && lists.shape[0] == 1;
  if (lists.shape != Shape{count, tokens} &&
      lists.shape != Shape{shared ? 1 : count, 1, tokens, tokens})
    return fail("has the shape {}, expected [{}, {}] or [1 or {}, 1, {}, {}]", text_of(lists.shape),
                count, tokens, count, tokens, tokens);
  const std::span<const Json* const> all(lists.entries);
  const auto size = static_cast<std::size_t>(pairs ? tokens * tokens : tokens);
  std::vector<TrainingMask> masks;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const auto entries = all.subspan(shared ? 0 : i * size, size);
    M3_TRY(TrainingMask mask, pairs ? read_pairs(entries, tokens) : read_documents(entries));
    masks.push_back(std::move(mask));
  }
  return masks;
}

}  // namespace m3
