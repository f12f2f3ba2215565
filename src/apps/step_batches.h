// What each step of a training is computed on.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/data_options.h"
#include "data/dataset.h"
#include "model/model.h"
#include "train/run_checkpoint.h"

namespace m3 {

struct StepOptions {
  std::string batches;  // a file of token batches, or:
  DataOptions data;
  std::int64_t batch = 8;  // samples
  std::int64_t epochs = 1;
  std::int64_t steps = 0;  // 0: as many as the epochs have
  bool shuffled = true;    // or as the files have them, in every epoch
  std::uint64_t seed = 0;
  std::string validation;           // a file, or a share of the samples; "": none
  std::int64_t validate_every = 0;  // steps; 0: an epoch
};

void add_step_options(CLI::App& command, StepOptions& options);
// Throws CLI's error unless there is either a file of batches or data.
void expect_steps(const StepOptions& options);

// Of the samples that --val holds back; none: it is a file, read as the options say that come next.
std::optional<double> validation_share(const StepOptions& options);
DataOptions validation_file(const StepOptions& options);

// What steps of `batch` samples take of pictures at most: their pixels and embeddings, embeddings
// that are kept for later steps, and what the tower, or its derivative where it is trained, takes
// of the largest.
std::int64_t picture_bytes(const Dataset& data, const Config& config, std::int64_t batch,
                           bool vision_changes);

// The model that is going to read the data. Its weights need not be there yet.
struct ReadingModel {
  const std::string& directory;
  const Config& config;
  const Tokenizer* tokenizer = nullptr;  // of data files; batches of ids need none
  bool vision = false;                   // it sees pictures
  ThreadPool& pool;
};

// Prints what is in the files of `what`, an option, and what of them is not, on stderr. Errors:
// what is refused of them and where it is; nothing is left.
Result<Dataset> read_data(const char* what, const DataOptions& options, const ReadingModel& model);

class StepBatches {
 public:
  // Prints what is in data files, and what of them is not, on stderr. Errors: what is wrong with
  // the file or the data, where it is.
  static Result<StepBatches> open(const StepOptions& options, const ReadingModel& model);

  // To be called before at() and validation_at(): the model, which outlives the object, encodes
  // their pictures. `vision_changes`: its tower is trained, so that no picture is encoded as it was
  // before.
  void encode_with(const Model& model, bool vision_changes);

  std::int64_t steps() const { return steps_; }
  std::int64_t longest() const;  // rows of the longest sequence
  bool shows_pictures() const;
  // That a step takes at most beside what its rows do, of which so many are computed together.
  std::int64_t step_bytes(std::int64_t rows) const;

  // Of a step, both from 0; token batches are one epoch.
  std::int64_t epoch_of(std::int64_t step) const;

  // What its tokens follow from: the files, their samples, the order.
  Result<std::vector<RunFact>> facts(const StepOptions& options) const;

  // Whether a validation follows this step: as often as asked, and at the end.
  bool validates_after(std::int64_t step) const;
  // Whether something is due after this step that is to happen every so many steps, and at the end;
  // 0: as often as validations.
  bool is_due(std::int64_t step, std::int64_t every) const;
  std::int64_t validation_batches() const;

  // In an order that fills packs of `rows`. Which samples a step sees follows from the order, the
  // seed and the step: every one once in each epoch, the last step of which may have fewer. Errors:
  // a picture that is gone or has changed.
  Result<TrainingBatch> at(std::int64_t step, std::int64_t rows);
  // Always the same samples, none of which are trained on.
  Result<TrainingBatch> validation_at(std::int64_t batch, std::int64_t rows);

 private:
  StepBatches() = default;
  Status open_data(const StepOptions& options, const ReadingModel& model);
  Status open_validation(const StepOptions& options, const ReadingModel& model);
  Status hold_back(double share);
  std::int64_t steps_of_epoch() const;
  TrainingBatch given_batch(std::int64_t step) const;
  Result<TrainingBatch> read_batch(const Dataset& data, std::span<const std::int64_t> samples,
                                   std::int64_t rows);

  std::int64_t steps_ = 0;
  std::string given_file_;  // a file of batches, and what is in it
  std::vector<std::vector<TrainingSequence>> given_;

  std::optional<Dataset> data_, validation_data_;
  std::vector<std::int64_t> trained_;     // samples of data_
  std::vector<std::int64_t> validation_;  // of validation_data_, or of data_ where there is none
  std::int64_t validate_every_ = 0;
  std::int64_t batch_ = 1;
  bool shuffled_ = true;
  std::uint64_t seed_ = 0;
  std::int64_t epoch_ = -1;
  std::vector<std::int64_t> order_;  // of that epoch
  const Model* model_ = nullptr;
  bool vision_changes_ = false;
  std::unique_ptr<MediaReader> reader_;
};

}  // namespace m3
