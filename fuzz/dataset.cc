// Data files: whatever they hold, a record is refused or becomes a sample whose labels are its own
// next ids, and a cut one still is.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/check.h"
#include "data/record_lines.h"
#include "data/sample.h"
#include "ops/gradients.h"

namespace {

using namespace m3;

const Tokenizer& tokenizer() {
  static const auto loaded = [] {
    const char* directory = std::getenv("M3_FUZZ_TOKENIZER");
    return Tokenizer::load(directory != nullptr ? directory : "data/tokenizer");
  }();
  M3_CHECK(loaded, "{}", loaded.error().message);
  return *loaded;
}

// As many shapes as the messages have pictures and clips.
std::vector<MediaShape> shapes_of(const TrainingRecord& record) {
  std::vector<MediaShape> shapes;
  if (!record.chat) return shapes;
  for (const Json& message : record.chat->messages)
    for (const Json& part : message["content"])
      if (part["type"] != "text")
        shapes.push_back(
            {.kind = part["type"] == "image" ? MediaShape::Kind::kImage : MediaShape::Kind::kVideo,
             .tokens_per_group = 3});
  return shapes;
}

void check_sample(const Sample& sample) {
  const auto labels = labels_of(sample);
  M3_CHECK(labels.size() == sample.ids.size(), "{} labels", labels.size());
  std::int64_t scored = 0, end = 1;
  for (std::size_t t = 0; t < labels.size(); ++t) {
    if (labels[t] == kNotScored) continue;
    ++scored;
    M3_CHECK(t + 1 < labels.size() && labels[t] == sample.ids[t + 1], "label {} is wrong", t);
  }
  for (const IdRange& range : sample.scored) {
    M3_CHECK(range.begin >= end && range.size() > 0, "scored ranges are out of order");
    end = range.end;
  }
  M3_CHECK(scored == scored_tokens(sample), "{} labels for {} scored", scored,
           scored_tokens(sample));
}

void check_record(std::string_view text) {
  auto json = parse_json(text);
  if (!json) return;
  const auto record = read_training_record(std::move(*json), "enabled");
  if (!record) return;
  const auto sample = make_sample(*record, shapes_of(*record), tokenizer());
  if (!sample) return;
  M3_CHECK(!sample->scored.empty(), "nothing is scored");
  check_sample(*sample);
  const std::int64_t most = std::max<std::int64_t>(2, std::ssize(sample->ids) / 3);
  check_sample(cut_off(*sample, most));
  std::int64_t scored = 0;
  if (!sample->is_text) return;
  for (const Sample& piece : cut_in_pieces(*sample, most)) {
    check_sample(piece);
    scored += scored_tokens(piece);
  }
  M3_CHECK(scored == scored_tokens(*sample), "pieces score {} tokens", scored);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::size_t end = 0;
  for (const RecordPlace& place : find_records(text).records) {
    M3_CHECK(end <= place.bytes.begin && place.bytes.begin <= place.bytes.end &&
                 place.bytes.end <= size && place.line >= 1,
             "a record is out of place");
    end = place.bytes.end;
    check_record(text.substr(place.bytes.begin, place.bytes.end - place.bytes.begin));
  }
  return 0;
}
