#include "apps/training_file.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "apps/mask_reader.h"
#include "base/file.h"
#include "text/json.h"

namespace m3 {
namespace {

// `least`: kNotScored where that may stand in place of an id, else 0.
Result<std::vector<std::int32_t>> read_tokens(const Json& sequence, const char* key,
                                              std::int32_t least, const Config& config) {
  if (!sequence.is_object() || !sequence.contains(key) || !sequence[key].is_array())
    return fail("needs a list \"{}\"", key);
  std::vector<std::int32_t> tokens;
  for (const Json& entry : sequence[key]) {
    const bool whole = entry.is_number_integer();
    const std::int64_t id = whole ? entry.get<std::int64_t>() : -1;
    if (!whole || ((id < 0 || id >= config.vocab) && (least == 0 || id != least)))
      return fail("\"{}\" holds {}, expected 0 to {}{}", key, entry.dump(), config.vocab - 1,
                  least == 0 ? "" : " or -100");
    tokens.push_back(static_cast<std::int32_t>(id));
  }
  return tokens;
}

Result<std::vector<std::int32_t>> read_positions(const Json& json, std::size_t tokens) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (!json.is_array()) return fail("has \"position_ids\" that are no list");
  if (json.size() != tokens) return fail("has {} ids and {} \"position_ids\"", tokens, json.size());
  std::vector<std::int32_t> positions;
  for (const Json& entry : json) {
    const std::int64_t position = entry.is_number_integer() ? entry.get<std::int64_t>() : -1;
    if (position < 0 || position > kMost)
      return fail("\"position_ids\" holds {}, expected 0 to {}", entry.dump(), kMost);
    positions.push_back(static_cast<std::int32_t>(position));
  }
  return positions;
}

Result<TrainingSequence> read_sequence(const Json& json, const Config& config) {
  TrainingSequence sequence;
  M3_TRY(sequence.ids, read_tokens(json, "ids", 0, config));
  M3_TRY(sequence.labels, read_tokens(json, "labels", kNotScored, config));
  if (sequence.ids.empty()) return fail("\"ids\" is empty");
  if (sequence.ids.size() != sequence.labels.size())
    return fail("has {} ids and {} labels", sequence.ids.size(), sequence.labels.size());
  if (std::ssize(sequence.ids) > config.positions_max)
    return fail("has {} tokens, but the model has {} positions", sequence.ids.size(),
                config.positions_max);
  if (const Json* positions = find_set_member(json, "position_ids")) {
    M3_TRY(sequence.positions, read_positions(*positions, sequence.ids.size()));
  }
  return sequence;
}

constexpr const char* kMask = "attention_mask";

// The mask of each sequence of a batch, or of each that has one.
Result<std::vector<std::optional<TrainingMask>>> read_masks(
    const Json& batch, const std::vector<TrainingSequence>& sequences) {
  std::vector<std::optional<TrainingMask>> masks(sequences.size());
  const std::vector<std::int64_t> lengths = lengths_of(sequences);
  const Json* shared = find_set_member(batch, kMask);
  if (shared != nullptr) {
    auto read = read_batch_mask(*shared, lengths);
    if (!read) return fail("\"{}\" {}", kMask, read.error().message);
    std::ranges::move(*read, masks.begin());
  }
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const Json* own = find_set_member(batch["sequences"][i], kMask);
    if (own == nullptr) continue;
    if (shared != nullptr) return fail("sequence {} has a \"{}\" beside the batch's", i + 1, kMask);
    auto read = read_mask(*own, lengths[i]);
    if (!read) return fail("sequence {}: \"{}\" {}", i + 1, kMask, read.error().message);
    masks[i] = std::move(*read);
  }
  return masks;
}

// The sequences that these come to under their masks.
Result<std::vector<TrainingSequence>> apply_masks(const Json& batch,
                                                  std::vector<TrainingSequence> sequences) {
  M3_TRY(const auto masks, read_masks(batch, sequences));
  std::vector<TrainingSequence> all;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (!masks[i]) {
      all.push_back(std::move(sequences[i]));
      continue;
    }
    auto parts = apply_mask(sequences[i], *masks[i]);
    if (!parts) return fail("sequence {}: {}", i + 1, parts.error().message);
    std::ranges::move(*parts, std::back_inserter(all));
  }
  return all;
}

Result<std::vector<TrainingSequence>> read_sequences(const Json& batch, const Config& config) {
  if (!batch.is_object() || !batch.contains("sequences") || !batch["sequences"].is_array() ||
      batch["sequences"].empty())
    return fail("expected {{\"sequences\": [...]}} with at least one");
  std::vector<TrainingSequence> sequences;
  for (const Json& entry : batch["sequences"]) {
    auto sequence = read_sequence(entry, config);
    if (!sequence) return fail("sequence {} {}", sequences.size() + 1, sequence.error().message);
    sequences.push_back(std::move(*sequence));
  }
  return apply_masks(batch, std::move(sequences));
}

Result<Json> read_json_file(const std::string& path) {
  M3_TRY(const std::string text, read_text_file(path));
  auto json = parse_json(text, JsonPlace::kLine);
  if (!json) return fail("{}: {}", path, json.error().message);
  return std::move(*json);
}

}  // namespace

Result<std::vector<TrainingSequence>> read_training_batch(const std::string& path,
                                                          const Config& config) {
  M3_TRY(const Json json, read_json_file(path));
  auto sequences = read_sequences(json, config);
  if (!sequences) return fail("{}: {}", path, sequences.error().message);
  return sequences;
}

Result<std::vector<std::vector<TrainingSequence>>> read_training_batches(const std::string& path,
                                                                         const Config& config) {
  M3_TRY(const Json json, read_json_file(path));
  if (!json.is_object() || !json.contains("steps") || !json["steps"].is_array() ||
      json["steps"].empty())
    return fail("{}: expected {{\"steps\": [...]}} with at least one", path);
  std::vector<std::vector<TrainingSequence>> steps;
  for (const Json& step : json["steps"]) {
    auto sequences = read_sequences(step, config);
    if (!sequences)
      return fail("{}: step {}: {}", path, steps.size() + 1, sequences.error().message);
    if (scored_labels(*sequences) == 0)
      return fail("{}: step {}: no label is scored, all are -100", path, steps.size() + 1);
    steps.push_back(std::move(*sequences));
  }
  return steps;
}

}  // namespace m3
