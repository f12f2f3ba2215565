#include "apps/training_file.h"

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
  return sequence;
}

Result<std::vector<TrainingSequence>> read_sequences(const Json& batch, const Config& config) {
  if (!batch.is_object() || !batch.contains("sequences") || !batch["sequences"].is_array() ||
      batch["sequences"].empty())
    return fail("expected {{\"sequences\": [...]}} with at least one");
  std::vector<TrainingSequence> sequences;
  for (const Json& entry : batch["sequences"]) {
    auto sequence = read_sequence(entry, config);
    if (!sequence) return fail("sequence {} {}", sequences.size(), sequence.error().message);
    sequences.push_back(std::move(*sequence));
  }
  return sequences;
}

Result<Json> read_json_file(const std::string& path) {
  M3_TRY(const std::string text, read_text_file(path));
  auto json = parse_json(text);
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
    if (!sequences) return fail("{}: step {}: {}", path, steps.size(), sequences.error().message);
    steps.push_back(std::move(*sequences));
  }
  return steps;
}

}  // namespace m3
