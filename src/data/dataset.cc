#include "data/dataset.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <new>
#include <utility>

#include "checkpoint/checksum.h"
#include "data/record_lines.h"
#include "text/utf8.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;

// Records that are read side by side before their samples and notes go into the set: enough to keep
// all threads at work.
constexpr std::size_t kReadTogether = 1024;

std::string_view raw_text(const MappedFile& file) {
  const auto bytes = file.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string_view text_of(const MappedFile& file) {
  return without_byte_order_mark(raw_text(file));
}

// The ending of a path, in small letters.
std::string ending_of(const std::string& path) {
  std::string ending = fs::path(path).extension();
  for (char& c : ending)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return ending;
}

// Two bytes for each character, also where no byte order mark says so.
bool is_utf16(std::string_view text) {
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff")) return true;
  if (text.size() < 4) return false;
  const std::array<bool, 4> zero = {text[0] == 0, text[1] == 0, text[2] == 0, text[3] == 0};
  return zero == std::array{false, true, false, true} ||
         zero == std::array{true, false, true, false};
}

// Errors: the file is text that something has been done to, by its first bytes.
Status expect_plain_text(std::string_view text) {
  struct Packed {
    std::string_view begin, name, unpack;
  };
  static constexpr std::array<Packed, 4> kPacked = {{
      {"\x1f\x8b", "gzip", "gzip -d"},
      {"\x28\xb5\x2f\xfd", "zstd", "zstd -d"},
      {std::string_view("PK\3\4"), "zip", "unzip"},
      {std::string_view("PK\5\6"), "zip", "unzip"},
  }};
  for (const Packed& packed : kPacked)
    if (text.starts_with(packed.begin))
      return fail("is compressed ({}), expected a text: unpack it with {} first", packed.name,
                  packed.unpack);
  if (is_utf16(text))
    return fail("is UTF-16, expected UTF-8: convert it with iconv -f UTF-16 -t UTF-8 first");
  return {};
}

// Lines as Windows ends them end with "\n" alone.
std::string with_plain_lines(std::string_view text) {
  std::string plain;
  plain.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i)
    if (!text.substr(i).starts_with("\r\n")) plain += text[i];
  return plain;
}

// A path that does not begin at the root begins at `directory`.
std::string beside(const std::string& directory, const std::string& address) {
  const bool path = !address.starts_with("data:") && address.find("://") == address.npos;
  if (address.empty() || !path || address[0] == '/' || directory.empty()) return address;
  return directory + "/" + address;
}

// Errors: the line of the first byte that is no UTF-8.
Status expect_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = read_utf8(text, at);
    if (c.state != Utf8Char::State::kValid)
      return fail(
          "line {} is not UTF-8",
          1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
    at += c.length;
  }
  return {};
}

std::uint64_t checksum_of(const MediaInput& input) {
  return m3::checksum_of(std::as_bytes(std::span(input.pixels.values)));
}

MediaGrid media_grid(const Grid& grid) {
  return {grid.t, grid.h, grid.w};
}

TrainingMedia training_media(const PixelRows& pixels, std::shared_ptr<const EncodedMedia> encoded) {
  return {pixel_tensor(pixels), media_grid(pixels.grid), std::move(encoded)};
}

}  // namespace

// Reads files into a dataset.
class Dataset::Builder {
 public:
  Builder(Dataset& set, const Tokenizer& tokenizer, ThreadPool& pool)
      : set_(set), tokenizer_(tokenizer), pool_(pool) {}

  void add_files(std::span<const std::string> paths) {
    std::vector<std::size_t> opened;
    for (const std::string& path : paths) {
      if (auto status = open(path); !status)
        set_.refused_.push_back({path, status.error().message, true});
      else
        opened.push_back(set_.files_.size() - 1);
    }
    for (const std::size_t file : opened) {
      add_records(file);
      bytes_done_ += std::ssize(text_of(*set_.files_[file]));
    }
  }

 private:
  Status open(const std::string& path) {
    const std::string ending = ending_of(path);
    const bool known = ending == ".jsonl" || ending == ".json" || ending == ".txt";
    const Status unknown = fail("has an unknown ending: expected .jsonl, .json or .txt");
    std::error_code error;
    if (!fs::exists(path, error)) return fail("does not exist, or may not be looked at");
    if (fs::is_directory(path, error))
      return fail("is a directory, expected a .jsonl, .json or .txt file");
    if (!known && !fs::is_regular_file(path, error)) return unknown;
    M3_TRY(auto file, MappedFile::open(path));
    M3_TRY_STATUS(expect_plain_text(raw_text(*file)));
    if (!known) return unknown;
    remark_on_repeat(path);
    bytes_all_ += std::ssize(text_of(*file));
    set_.paths_.push_back(path);
    set_.files_.push_back(std::move(file));
    return {};
  }

  void remark_on_repeat(const std::string& path) {
    for (const std::string& other : set_.paths_) {
      std::error_code error;
      if (!fs::equivalent(path, other, error)) continue;
      set_.remarks_.push_back({path, "is given twice: an epoch has each of its samples as often"});
      return;
    }
  }

  // What one record became, read beside others.
  struct ReadRecord {
    Result<Sample> sample = Sample();
    std::vector<std::string> notes = {};
  };

  void add_records(std::size_t file) {
    const std::string_view text = text_of(*set_.files_[file]);
    const Source whole{file, {0, text.size()}, 0};
    if (ending_of(set_.paths_[file]) == ".txt") return add_sources({whole});
    const RecordPlaces places = find_records(text);
    if (places.records.empty() && places.broken.empty()) refuse(whole, "holds no records");
    std::vector<Source> some;
    for (const RecordPlace& place : places.records) {
      some.push_back({file, place.bytes, place.line});
      if (some.size() == kReadTogether) add_sources(std::exchange(some, {}));
    }
    add_sources(some);
    if (!places.broken.empty()) refuse({file, {0, 0}, places.line}, places.broken);
  }

  void add_sources(const std::vector<Source>& sources) {
    if (sources.empty()) return;
    std::vector<ReadRecord> read(sources.size());
    pool_.parallel_for(std::ssize(sources), 1, [&](std::int64_t begin, std::int64_t) {
      const auto i = static_cast<std::size_t>(begin);
      try {
        read[i].sample = read_record(sources[i], read[i].notes);
      } catch (const std::bad_alloc&) {  // nobody above could catch it on another thread
        read[i].sample = fail("the system has no more memory for it");
      }
    });
    for (std::size_t i = 0; i < sources.size(); ++i) add_record(sources[i], read[i]);
    if (set_.options_.progress)
      set_.options_.progress(bytes_done_ + static_cast<std::int64_t>(sources.back().bytes.end),
                             bytes_all_);
  }

  Result<Sample> read_record(const Source& source, std::vector<std::string>& notes) const {
    M3_TRY(const TrainingRecord record, set_.record_of(source));
    M3_TRY(const auto media, set_.media_of(source, record));
    std::vector<MediaShape> shapes;
    for (const MediaInput& input : media) {
      shapes.push_back(input.shape);
      notes.insert(notes.end(), input.notes.begin(), input.notes.end());
    }
    M3_TRY(Sample sample, make_sample(record, shapes, tokenizer_));
    notes.insert(notes.end(), record.remarks.begin(), record.remarks.end());
    for (const MediaInput& input : media) {
      sample.pixels.push_back(checksum_of(input));
      sample.grids.push_back(media_grid(input.pixels.grid));
    }
    return sample;
  }

  void add_record(const Source& source, ReadRecord& read) {
    for (std::string& note : read.notes)
      set_.remarks_.push_back({set_.place(source), std::move(note)});
    if (!read.sample) return refuse(source, read.sample.error().message);
    Sample& sample = *read.sample;
    if (sample.off_mode > 0)
      set_.remarks_.push_back(
          {set_.place(source),
           fmt::format("{} of {} answers begin unlike what thinking_mode prompts for: reasoning is "
                       "missing, or there while thinking is disabled",
                       sample.off_mode, sample.answers)});
    if (std::ssize(sample.ids) <= set_.options_.max_tokens)
      keep(source, std::move(sample));
    else
      add_overlong(source, sample);
  }

  void add_overlong(const Source& source, const Sample& sample) {
    const std::int64_t most = set_.options_.max_tokens;
    const std::size_t tokens = sample.ids.size();
    if (set_.options_.overlong == Overlong::kRefuse)
      return refuse(source, fmt::format("has {} tokens, more than {}; --overlong cut or drop says "
                                        "what to do about it",
                                        tokens, most));
    if (set_.options_.overlong == Overlong::kDrop) {
      set_.dropped_.push_back(
          {set_.place(source), fmt::format("has {} tokens, more than {}", tokens, most)});
      return;
    }
    if (sample.is_text) {
      std::vector<Sample> pieces = cut_in_pieces(sample, most);
      set_.cut_.push_back(
          {set_.place(source), fmt::format("{} tokens in {} pieces", tokens, pieces.size())});
      for (Sample& piece : pieces) keep(source, std::move(piece));
      return;
    }
    Sample cut = cut_off(sample, most);
    if (cut.scored.empty()) {
      set_.dropped_.push_back(
          {set_.place(source),
           fmt::format("has {} tokens: of the first {} none is scored", tokens, most)});
      return;
    }
    set_.cut_.push_back(
        {set_.place(source), fmt::format("{} of {} tokens, {} of {} scored", cut.ids.size(), tokens,
                                         scored_tokens(cut), scored_tokens(sample))});
    keep(source, std::move(cut));
  }

  void keep(const Source& source, Sample sample) {
    set_.samples_.push_back(std::move(sample));
    set_.sources_.push_back(source);
  }
  void refuse(const Source& source, std::string message) {
    set_.refused_.push_back({set_.place(source), std::move(message), source.line == 0});
  }

  Dataset& set_;
  const Tokenizer& tokenizer_;
  ThreadPool& pool_;
  std::int64_t bytes_done_ = 0, bytes_all_ = 0;
};

Dataset Dataset::read(std::span<const std::string> files, const Tokenizer& tokenizer,
                      const DatasetOptions& options, ThreadPool& pool) {
  Dataset set;
  set.options_ = options;
  Builder(set, tokenizer, pool).add_files(files);
  set.options_.progress = {};
  return set;
}

std::string Dataset::place(const Source& source) const {
  const std::string& path = paths_[source.file];
  return source.line == 0 ? path : fmt::format("{}:{}", path, source.line);
}

std::string Dataset::place(std::int64_t sample) const {
  return place(sources_[static_cast<std::size_t>(sample)]);
}

std::int64_t Dataset::longest() const {
  std::int64_t longest = 0;
  for (const Sample& sample : samples_) longest = std::max(longest, std::ssize(sample.ids));
  return longest;
}

Result<TrainingRecord> Dataset::record_of(const Source& source) const {
  const std::string_view bytes =
      text_of(*files_[source.file])
          .substr(source.bytes.begin, source.bytes.end - source.bytes.begin);
  if (source.line == 0) {
    if (bytes.empty()) return fail("is empty");
    M3_TRY_STATUS(expect_utf8(bytes));
    return TrainingRecord{.text = with_plain_lines(bytes)};
  }
  M3_TRY(Json json, parse_json(bytes));
  return read_training_record(std::move(json), options_.thinking_mode);
}

Result<std::vector<MediaInput>> Dataset::media_of(const Source& source,
                                                  const TrainingRecord& record) const {
  if (!record.chat) return std::vector<MediaInput>();
  const MediaCount count = count_media(record.chat->messages);
  if (count.images + count.videos == 0) return std::vector<MediaInput>();
  if (!options_.media) return fail("has pictures or clips, but the model has no vision tower");
  const std::string directory = fs::path(paths_[source.file]).parent_path();
  const auto rule = [&](const std::string& address) -> Result<std::string> {
    return beside(directory, address);
  };
  return read_message_media(record.chat->messages, "", options_.fps, *options_.media, rule);
}

Result<TrainingBatch> Dataset::batch(std::span<const std::int64_t> samples,
                                     MediaReader& reader) const {
  TrainingBatch batch;
  std::vector<std::pair<std::size_t, std::size_t>> owned;  // of batch.media: first, count
  for (const std::int64_t index : samples) {
    const Sample& sample = samples_[static_cast<std::size_t>(index)];
    batch.sequences.push_back({.ids = sample.ids, .labels = labels_of(sample)});
    batch.places.push_back(place(index));
    owned.emplace_back(batch.media.size(), sample.media.size());
    if (sample.media.empty()) continue;
    const Source& source = sources_[static_cast<std::size_t>(index)];
    const auto named = [&](auto result) {
      if (!result) result = fail("{}: {}", place(source), result.error().message);
      return result;
    };
    M3_TRY(const TrainingRecord record, named(record_of(source)));
    M3_TRY(auto media, named(media_of(source, record)));
    if (media.size() < sample.media.size())
      return fail("{}: the file has changed since it was read", place(source));
    media.resize(sample.media.size());  // one that was cut may have lost its last pictures
    for (std::size_t m = 0; m < media.size(); ++m)
      if (checksum_of(media[m]) != sample.pixels[m])
        return fail("{}: picture {} has changed since the data was read", place(source), m + 1);
    std::ranges::move(media, std::back_inserter(batch.media));
  }
  M3_TRY(const auto encoded, reader.encode(batch.media));
  for (std::size_t i = 0; i < owned.size(); ++i) {
    TrainingSequence& sequence = batch.sequences[i];
    const auto [first, count] = owned[i];
    const std::vector<std::shared_ptr<const EncodedMedia>> mine(
        encoded.begin() + static_cast<std::ptrdiff_t>(first),
        encoded.begin() + static_cast<std::ptrdiff_t>(first + count));
    for (std::size_t m = 0; m < count; ++m)
      sequence.media.push_back(training_media(batch.media[first + m].pixels, mine[m]));
    auto plan = reader.plan(sequence.ids, mine);
    if (!plan)
      return fail("{}: a picture has changed since the data was read: {}", place(samples[i]),
                  plan.error().message);
    sequence.splices = std::move(*plan);
  }
  return batch;
}

}  // namespace m3
