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

}  // namespace

Result<std::vector<TrainingSequence>> read_training_batch(const std::string& path,
                                                          const Config& config) {
  M3_TRY(const std::string text, read_text_file(path));
  const auto json = parse_json(text);
  if (!json) return fail("{}: {}", path, json.error().message);
  if (!json->is_object() || !json->contains("sequences") || !(*json)["sequences"].is_array() ||
      (*json)["sequences"].empty())
    return fail("{}: expected {{\"sequences\": [...]}} with at least one", path);
  std::vector<TrainingSequence> sequences;
  for (const Json& entry : (*json)["sequences"]) {
    auto sequence = read_sequence(entry, config);
    if (!sequence)
      return fail("{}: sequence {} {}", path, sequences.size(), sequence.error().message);
    sequences.push_back(std::move(*sequence));
  }
  return sequences;
}

}  // namespace m3
