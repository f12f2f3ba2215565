// Writes the files of a model: a few megabytes of rows at a time, whatever the size of the model.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/safetensors.h"
#include "model/weight_table.h"
#include "tensor/matrix.h"

namespace m3 {

// One weight, and how it is written.
struct WrittenWeight {
  const WeightSpec* spec = nullptr;
  const Codec* codec = nullptr;
  std::string name;  // in the file
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  std::int64_t value_bytes() const { return rows * value_row_bytes(*codec, cols); }
  std::int64_t scale_bytes() const { return rows * scale_row_bytes(*codec, cols); }
  std::int64_t bytes() const {
    return value_bytes() + scale_bytes() + (codec->whole_scale == nullptr ? 0 : 4);
  }
};

// `flat`: names without the prefix of the text model.
WrittenWeight written_weight(const WeightSpec& spec, const Codec& codec, bool flat);

// The safetensors files of a directory.
struct ModelFiles {
  std::vector<std::vector<WrittenWeight>> shards;
  std::vector<std::string> names;  // of the shards
  bool indexed = true;             // model.safetensors.index.json lists the tensors

  std::int64_t bytes() const;
};

// A flat model is one file without an index; else a file ends before the weight with which it would
// exceed `shard_bytes`. Errors: a format that cannot hold a weight's columns.
Result<ModelFiles> plan_files(std::vector<WrittenWeight> weights, bool flat,
                              std::int64_t shard_bytes);

// What rounding did to a weight.
struct RoundingError {
  double squares = 0;        // Σ x²
  double error_squares = 0;  // Σ (x' - x)²
  double error_max = 0;      // max |x' - x|
};

// Where the numbers come from. Rows are read from several threads at once.
class RowSource {
 public:
  virtual ~RowSource() = default;
  // The weight as it is already stored, in the very format that is to be written, to be copied byte
  // by byte; or empty.
  virtual Matrix stored(const WrittenWeight&) { return {}; }
  virtual void read_row(const WrittenWeight& weight, std::int64_t row, float* out) = 0;
  // The weight is written. `error` is only computed where measures_errors().
  virtual bool measures_errors() const { return false; }
  virtual void written(const WrittenWeight&, const RoundingError&) {}
};

struct WriteOptions {
  std::string directory;
  Metadata metadata;           // of every file
  Progress progress;           // counts bytes
  ThreadPool* pool = nullptr;  // null: this thread alone
};

// The shards, then the index. Errors: a number that is not finite, with the weight and its row; the
// disk is full.
Status write_model_files(const ModelFiles& files, RowSource& source, const WriteOptions& options);

}  // namespace m3
