// Writes a model again: weights in other formats, or with other values.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "model/model_writer.h"
#include "model/weight_match.h"
#include "model/weight_table.h"

namespace m3 {

// A model's files, in any formats and spelling that load.
struct ModelSource {
  std::string directory;
  Config config;
  std::shared_ptr<const Checkpoint> checkpoint;
  std::vector<WeightSpec> table;  // without places
  MatchedWeights matched;         // into `table`

  // `vision`: the files must have their vision tower, if their config has one. Reads all scales.
  // Errors: a directory that does not load; numbers that are not finite.
  static Result<std::unique_ptr<ModelSource>> open(const std::string& directory, bool vision,
                                                   ThreadPool* pool);
};

struct RewriteWeight {
  const FoundWeight* found = nullptr;  // of the source
  const Codec* codec = nullptr;        // in which it is written
  Tensor values = {};                  // float32, of its shape, in place of the source's; or empty
  const LowRank* addend = nullptr;     // added to either, in float32; or null
};

struct RewriteOptions {
  std::string directory;         // where the model goes
  std::string note;              // key of an entry in the metadata: what wrote the files
  Metadata metadata;             // of every file
  Format main = Format::kMxfp4;  // what most linears have, if anything is quantised
  bool mtp_chain = false;        // its MTP modules are a chain (MtpChain::kPostNorm) from now on
  std::int64_t shard_bytes = 5'000'000'000;
  Progress progress;           // counts bytes
  ThreadPool* pool = nullptr;  // null: this thread alone
};

struct RewrittenWeight {
  std::string name;
  Kind kind = Kind::kNorm;
  const Codec* from = nullptr;
  const Codec* to = nullptr;
  std::int64_t values = 0;
  std::int64_t bytes = 0;
  RoundingError error;  // 0 where bytes were copied
};

struct RewriteReport {
  std::vector<RewrittenWeight> weights;  // in the order of the files
  std::int64_t source_bytes = 0;         // of weights
  std::int64_t bytes = 0;
  std::vector<std::string>
      left_out;  // files of the source that were too large to be anything small
  std::vector<std::string> warnings;  // each a sentence
};

// Writes config.json, the weights in released names, an index, and copies of all other small files.
// Walks through the source a few megabytes at a time: memory does not grow with the model.
// Errors: formats that one product cannot mix, or with too many columns in a byte; a directory that
// is the source, inside it, or holds anything but an earlier output of the same; numbers that are
// not finite; a full disk.
Result<RewriteReport> rewrite_model(const ModelSource& source,
                                    std::span<const RewriteWeight> weights,
                                    const RewriteOptions& options);

}  // namespace m3
