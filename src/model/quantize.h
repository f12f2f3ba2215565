// Writes a model again with other number formats.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "model/model_writer.h"
#include "model/weight_table.h"

namespace m3 {

// Weights whose released name fits the pattern (base/glob.h) get this format, whatever the rest
// gets.
struct FormatRule {
  std::string pattern;
  Format format = Format::kBF16;
};

struct QuantizeOptions {
  std::string source;              // a model's directory, in any formats and spelling that load
  std::string directory;           // where the new one goes
  Format format = Format::kMxfp4;  // for the weights that takes_format() (quantisation.h) names
  std::vector<FormatRule> keep;    // the first that fits a weight decides
  bool vision = true;              // the source must have its vision tower, if its config has one
  std::int64_t shard_bytes = 5'000'000'000;
  Progress progress;           // counts bytes
  ThreadPool* pool = nullptr;  // null: this thread alone
};

struct QuantizedWeight {
  std::string name;
  Kind kind = Kind::kNorm;
  const Codec* from = nullptr;
  const Codec* to = nullptr;  // the same: its bytes were copied
  std::int64_t values = 0;
  std::int64_t bytes = 0;
  RoundingError error;
};

struct QuantizeReport {
  std::vector<QuantizedWeight> weights;  // in the order of the files
  std::int64_t source_bytes = 0;         // of weights
  std::int64_t bytes = 0;
  std::vector<std::string>
      left_out;  // files of the source that were too large to be anything small
  std::vector<std::string> warnings;  // each a sentence
};

// Writes config.json, the weights in released names (MTP modules and vision tower come along), an
// index, and copies of all other small files. Walks through the source a few megabytes at a time:
// memory does not grow with the model. A rule only concerns weights that are multiplied (linears of
// text and vision, embedding, head): router, norms and vectors stay as they are.
// Errors: a source that does not load; a rule that no such weight fits; formats that one product
// cannot mix, or with too many columns in a byte; a directory that is the source, inside it, or
// holds anything but an earlier output of the same; numbers that are not finite; a full disk.
Result<QuantizeReport> quantize_checkpoint(const QuantizeOptions& options);

}  // namespace m3
