// Data files as what a model is trained on.
//
// Ids stay in memory. Texts and pictures do not: files are mapped, and a sample's pictures are read
// again from where its record names them whenever it is trained on.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "data/sample.h"
#include "input/media_input.h"
#include "train/training_sequence.h"

namespace m3 {

// What is done about a sample of too many tokens. Cut conversations lose their end; cut texts
// become several samples.
enum class Overlong { kRefuse, kCut, kDrop };

struct DatasetOptions {
  std::int64_t max_tokens = 0;  // of a sample; 2 or more
  Overlong overlong = Overlong::kRefuse;
  std::optional<std::string> thinking_mode = {};  // of conversations that do not say
  std::optional<PreprocessOptions> media = {};    // none: the model sees no pictures
  double fps = 1;                                 // frames of a clip's second
  Progress progress = {};                         // in bytes of all files
};

// Something that a person should know about a record or file.
struct DataNote {
  std::string place;  // "FILE:LINE", or "FILE"
  std::string message;
  bool of_file = false;  // not of a record
};

// One step's sequences, and the pixels that they point to.
struct TrainingBatch {
  std::vector<TrainingSequence> sequences;
  std::vector<MediaInput> media = {};
  std::vector<std::string> places = {};  // of each sequence, for messages
};

class Dataset {
 public:
  // Files are `.jsonl` and `.json` (records, one a line or as one array; see training_record.h) and
  // `.txt` (one text each, its lines ended by "\n" or "\r\n", which becomes "\n"), in UTF-8 with or
  // without a byte order mark. Addresses of pictures that are paths begin at the file's directory.
  // Each picture is decoded once, so that none turns out to be missing later. What cannot be
  // trained on is not in the set but in refused(). Threads of `pool` read records side by side;
  // what comes out is in the files' order.
  static Dataset read(std::span<const std::string> files, const Tokenizer& tokenizer,
                      const DatasetOptions& options, ThreadPool& pool);

  std::span<const Sample> samples() const { return samples_; }
  std::string place(std::int64_t sample) const;
  std::int64_t longest() const;  // tokens of the longest sample; 0 where there is none

  std::span<const DataNote> refused() const { return refused_; }
  // Records that are too long and were left out or shortened, as the options ask.
  std::span<const DataNote> dropped() const { return dropped_; }
  std::span<const DataNote> cut() const { return cut_; }
  std::span<const DataNote> remarks() const { return remarks_; }  // about samples that are in

  // Some samples as they are trained on, pictures read and encoded by `reader`. Errors: a picture
  // has changed since read() or is gone; those of MediaReader::encode().
  Result<TrainingBatch> batch(std::span<const std::int64_t> samples, MediaReader& reader) const;

 private:
  struct Source {
    std::size_t file;
    TextRange bytes;
    std::int64_t line;  // 0: the file is one text
  };
  class Builder;

  std::string place(const Source& source) const;
  Result<TrainingRecord> record_of(const Source& source) const;
  Result<std::vector<MediaInput>> media_of(const Source& source,
                                           const TrainingRecord& record) const;

  DatasetOptions options_;
  std::vector<std::string> paths_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::vector<Sample> samples_;
  std::vector<Source> sources_;  // of each sample
  std::vector<DataNote> refused_, dropped_, cut_, remarks_;
};

}  // namespace m3
