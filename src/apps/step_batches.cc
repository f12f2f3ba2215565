#include "apps/step_batches.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <numeric>

#include "apps/option_checks.h"
#include "apps/pixel_file.h"
#include "apps/training_file.h"
#include "base/file.h"
#include "checkpoint/checksum.h"
#include "data/epoch_order.h"
#include "engine/media_encoder.h"
#include "train/batch_mask.h"
#include "train/packs.h"
#include "train/vision_gradient.h"

namespace m3 {
namespace {

constexpr double kMany = 1e9;

// "12 samples of 345 tokens, 67 of them scored".
std::string amount(const Dataset& data, std::span<const std::int64_t> samples) {
  std::int64_t tokens = 0, scored = 0;
  for (const std::int64_t index : samples) {
    const Sample& sample = data.samples()[static_cast<std::size_t>(index)];
    tokens += std::ssize(sample.ids);
    scored += scored_tokens(sample);
  }
  return fmt::format("{} samples of {} tokens, {} of them scored", samples.size(), tokens, scored);
}

// Says on stderr what the data come to and how much of them was cut, dropped or remarked on.
// Errors: something was refused, or nothing is left.
Status report(const char* what, const Dataset& data) {
  if (const auto refused = data.refused(); !refused.empty())
    return fail("{}: {}{}", refused[0].place, refused[0].message,
                refused.size() == 1
                    ? ""
                    : fmt::format(" (and {} more: m3 data check lists them)", refused.size() - 1));
  if (data.samples().empty())
    return fail("{}: all {} samples are too long and were dropped", what, data.dropped().size());
  std::vector<std::int64_t> all(data.samples().size());
  std::iota(all.begin(), all.end(), 0);
  std::fprintf(stderr, "%s\n",
               fmt::format("{}: {}; {} cut, {} dropped, {} remarks{}", what, amount(data, all),
                           data.cut().size(), data.dropped().size(), data.remarks().size(),
                           data.cut().size() + data.dropped().size() + data.remarks().size() > 0
                               ? " (m3 data check lists them)"
                               : "")
                   .c_str());
  return {};
}

// The batch-th `size` of a list of samples; the last may have fewer.
std::span<const std::int64_t> batch_of(std::span<const std::int64_t> samples, std::int64_t batch,
                                       std::int64_t size) {
  const std::int64_t begin = batch * size, end = std::min(begin + size, std::ssize(samples));
  return samples.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
}

// A file by its content: it may have moved.
Result<std::string> file_fact(const std::string& path) {
  M3_TRY(const auto file, MappedFile::open(path));
  return fmt::format("{} bytes of xxh3 {:016x}", file->bytes().size(), checksum_of(file->bytes()));
}

}  // namespace

Result<Dataset> read_data(const char* what, const DataOptions& options, const ReadingModel& model) {
  M3_TRY(Dataset data, read_dataset(options, model.directory, model.config, *model.tokenizer,
                                    model.vision, model.pool));
  M3_TRY_STATUS(report(what, data));
  return data;
}

void add_step_options(CLI::App& command, StepOptions& o) {
  CLI::Option* data = command.add_option("--data", o.data.files, kDataFilesHelp);
  for (CLI::Option* option : add_data_options(command, o.data)) option->needs(data);
  command
      .add_option(
          "--batches", o.batches,
          "instead of --data, JSON: {\"steps\": [{\"sequences\": [{\"ids\": [...], "
          "\"labels\": [...]}]}]}, a batch for each step; labels, positions and masks as for "
          "m3 gradients")
      ->excludes(data);
  command.add_option("--batch", o.batch, "samples of a step")
      ->check(between(1, kMany))
      ->capture_default_str()
      ->needs(data);
  CLI::Option* epochs = command.add_option("--epochs", o.epochs, "how often every sample is seen")
                            ->check(between(1, 1e6))
                            ->capture_default_str()
                            ->needs(data);
  command
      .add_option("--steps", o.steps,
                  "how many steps the run has; begins another epoch where one ends (default: as "
                  "many as --epochs come to)")
      ->check(between(1, kMany))
      ->needs(data)
      ->excludes(epochs);
  command
      .add_option_function<std::string>(
          "--order", [&o](const std::string& name) { o.shuffled = name == "shuffled"; },
          "of samples: shuffled anew for each epoch, or as they are given in --data, for data "
          "that begin with what is to be learnt first (default: shuffled)")
      ->check(CLI::IsMember({"shuffled", "given"}))
      ->needs(data);
  command.add_option("--seed", o.seed, "of the order of shuffled samples")
      ->check(whole_number())
      ->capture_default_str()
      ->needs(data);
  CLI::Option* validation =
      command
          .add_option("--val", o.validation,
                      "a data file whose loss is shown as training goes on, or a share of --data, "
                      "such as 0.05, that is held back for it")
          ->needs(data);
  command.add_option("--val-every", o.validate_every, "steps between (default: an epoch)")
      ->check(between(1, kMany))
      ->needs(validation);
}

std::optional<double> validation_share(const StepOptions& o) {
  double share = 0;
  const char* end = o.validation.data() + o.validation.size();
  if (std::from_chars(o.validation.data(), end, share).ptr != end) return std::nullopt;
  return share;
}

DataOptions validation_file(const StepOptions& o) {
  DataOptions options = o.data;
  options.files = {o.validation};
  return options;
}

std::int64_t picture_bytes(const Dataset& data, const Config& config, std::int64_t batch,
                           bool vision_changes) {
  if (!config.vision) return 0;
  const VisionConfig& vision = *config.vision;
  const auto float_size = static_cast<std::int64_t>(sizeof(float));
  std::vector<std::int64_t> of_samples;
  std::int64_t largest = 0, embeddings = 0;
  for (const Sample& sample : data.samples()) {
    std::int64_t& bytes = of_samples.emplace_back(0);
    for (const MediaGrid& grid : sample.grids) {
      const std::int64_t own = media_tokens(grid, vision) * config.hidden * float_size;
      bytes += own + grid.rows() * pixel_row_size(vision) * float_size;
      embeddings += own;
      largest = std::max(largest, vision_changes ? VisionGradient::bytes_for(config, grid)
                                                 : VisionTower::bytes_for(config, grid));
    }
  }
  std::ranges::sort(of_samples, std::greater());
  of_samples.resize(std::min(of_samples.size(), static_cast<std::size_t>(batch)));
  return std::accumulate(of_samples.begin(), of_samples.end(), std::int64_t{0}) + largest +
         (vision_changes ? 0 : std::min(embeddings, MediaEncoder::kCacheBytes));
}

void expect_steps(const StepOptions& o) {
  if (o.batches.empty() && o.data.files.empty()) throw CLI::RequiredError("--data or --batches");
}

Result<StepBatches> StepBatches::open(const StepOptions& o, const ReadingModel& model) {
  StepBatches batches;
  if (!o.data.files.empty()) {
    M3_TRY_STATUS(batches.open_data(o, model));
    return batches;
  }
  batches.given_file_ = o.batches;
  M3_TRY(batches.given_, read_training_batches(o.batches, model.config));
  batches.steps_ = std::ssize(batches.given_);
  for (const auto& batch : batches.given_)
    for (const TrainingSequence& sequence : batch)
      M3_TRY_STATUS(expect_no_placeholder(sequence.ids, model.config));
  return batches;
}

void StepBatches::encode_with(const Model& model, bool vision_changes) {
  model_ = &model;
  vision_changes_ = vision_changes;
  reader_ = std::make_unique<MediaReader>(model);
}

Status StepBatches::open_data(const StepOptions& o, const ReadingModel& model) {
  M3_TRY(data_, read_data("--data", o.data, model));
  trained_.resize(data_->samples().size());
  std::iota(trained_.begin(), trained_.end(), 0);
  M3_TRY_STATUS(open_validation(o, model));
  batch_ = o.batch;
  shuffled_ = o.shuffled;
  seed_ = o.seed;
  steps_ = o.steps > 0 ? o.steps : o.epochs * steps_of_epoch();
  validate_every_ = o.validate_every > 0 ? o.validate_every : steps_of_epoch();
  return {};
}

Status StepBatches::open_validation(const StepOptions& o, const ReadingModel& model) {
  if (o.validation.empty()) return {};
  if (const auto share = validation_share(o)) return hold_back(*share);
  std::error_code error;
  if (!std::filesystem::exists(o.validation, error))
    return fail("--val {}: expected a share as 0.1, or a file, and there is none of this name",
                o.validation);
  M3_TRY(validation_data_, read_data("--val", validation_file(o), model));
  validation_.resize(validation_data_->samples().size());
  std::iota(validation_.begin(), validation_.end(), 0);
  return {};
}

// The same samples for every seed, so that runs compare.
Status StepBatches::hold_back(double share) {
  const std::int64_t count = std::ssize(data_->samples());
  const auto held = static_cast<std::int64_t>(std::llround(share * static_cast<double>(count)));
  if (!(share > 0 && share < 1) || held < 1 || held >= count)
    return fail(
        "--val {}: expected a file, or a share that leaves some of the samples on both sides; this "
        "is {} of {}",
        share, held, count);
  const std::vector<std::int64_t> order = epoch_order(count, 0, 0);
  validation_.assign(order.begin(), order.begin() + held);
  trained_.assign(order.begin() + held, order.end());
  std::ranges::sort(validation_);
  std::ranges::sort(trained_);
  std::fprintf(stderr, "--val %g: %s, are held back\n", share, amount(*data_, validation_).c_str());
  return {};
}

std::int64_t StepBatches::steps_of_epoch() const {
  return (std::ssize(trained_) + batch_ - 1) / batch_;
}

bool StepBatches::shows_pictures() const {
  return data_ && std::ranges::any_of(data_->samples(),
                                      [](const Sample& sample) { return !sample.grids.empty(); });
}

std::int64_t StepBatches::longest() const {
  if (data_) return std::max(data_->longest(), validation_data_ ? validation_data_->longest() : 0);
  std::int64_t longest = 0;
  for (const auto& batch : given_)
    for (const TrainingSequence& sequence : batch)
      longest = std::max(longest, std::ssize(sequence.ids));
  return longest;
}

std::int64_t StepBatches::step_bytes(std::int64_t rows) const {
  std::int64_t most = 0;
  for (const auto* data : {&data_, &validation_data_})
    if (*data)
      most = std::max(most, picture_bytes(**data, model_->config(), batch_, vision_changes_));
  for (const auto& batch : given_) most = std::max(most, mask_bytes(batch, rows));
  return most;
}

std::int64_t StepBatches::epoch_of(std::int64_t step) const {
  return data_ ? step / steps_of_epoch() : 0;
}

Result<std::vector<RunFact>> StepBatches::facts(const StepOptions& o) const {
  std::vector<RunFact> facts;
  const auto add_files = [&](const char* option, std::span<const std::string> files) -> Status {
    std::vector<std::string> texts;
    for (const std::string& file : files) {
      M3_TRY(texts.emplace_back(), file_fact(file));
    }
    facts.push_back({option, fmt::format("{}", fmt::join(texts, ", "))});
    return {};
  };
  // The last, since it follows from the others.
  const RunFact steps{"the number of steps (--steps, --epochs)", fmt::format("{}", steps_)};
  if (!data_) {
    M3_TRY_STATUS(add_files("--batches", {&o.batches, 1}));
    facts.push_back(steps);
    return facts;
  }
  M3_TRY_STATUS(add_files("--data", o.data.files));
  facts.push_back({"--batch", fmt::format("{}", batch_)});
  facts.push_back({"--order", shuffled_ ? "shuffled" : "given"});
  facts.push_back({"--seed", fmt::format("{}", seed_)});
  facts.push_back({"--fps", fmt::format("{}", o.data.fps)});
  if (validation_data_)
    M3_TRY_STATUS(add_files("--val", {&o.validation, 1}));
  else if (!validation_.empty())
    facts.push_back({"--val", o.validation});
  Checksum checksum;
  for (const Sample& sample : data_->samples()) {
    checksum.add(std::as_bytes(std::span(sample.ids)));
    const std::vector<std::int32_t> labels = labels_of(sample);
    checksum.add(std::as_bytes(std::span(labels)));
    checksum.add(std::as_bytes(std::span(sample.pixels)));
  }
  facts.push_back(
      {"what is learnt of --data",
       fmt::format("{} samples (xxh3 {:016x})", data_->samples().size(), checksum.value())});
  facts.push_back(steps);
  return facts;
}

bool StepBatches::validates_after(std::int64_t step) const {
  return !validation_.empty() && is_due(step, validate_every_);
}

bool StepBatches::is_due(std::int64_t step, std::int64_t every) const {
  const std::int64_t apart = every > 0 ? every : validate_every_;
  return step + 1 == steps_ || (apart > 0 && (step + 1) % apart == 0);
}

std::int64_t StepBatches::validation_batches() const {
  return (std::ssize(validation_) + batch_ - 1) / batch_;
}

Result<TrainingBatch> StepBatches::at(std::int64_t step, std::int64_t rows) {
  if (!data_) return given_batch(step);
  if (step / steps_of_epoch() != epoch_) {
    epoch_ = step / steps_of_epoch();
    order_ = trained_;
    if (shuffled_) {
      const auto places =
          epoch_order(std::ssize(trained_), seed_, static_cast<std::uint64_t>(epoch_));
      std::ranges::transform(places, order_.begin(), [&](std::int64_t place) {
        return trained_[static_cast<std::size_t>(place)];
      });
    }
  }
  return read_batch(*data_, batch_of(order_, step % steps_of_epoch(), batch_), rows);
}

TrainingBatch StepBatches::given_batch(std::int64_t step) const {
  TrainingBatch batch{.sequences = given_[static_cast<std::size_t>(step)]};
  batch.places.resize(batch.sequences.size(), fmt::format("{}: steps[{}]", given_file_, step));
  return batch;
}

Result<TrainingBatch> StepBatches::validation_at(std::int64_t batch, std::int64_t rows) {
  return read_batch(validation_data_ ? *validation_data_ : *data_,
                    batch_of(validation_, batch, batch_), rows);
}

Result<TrainingBatch> StepBatches::read_batch(const Dataset& data,
                                              std::span<const std::int64_t> samples,
                                              std::int64_t rows) {
  if (vision_changes_) reader_ = std::make_unique<MediaReader>(*model_);
  std::vector<std::int64_t> lengths, packed;
  for (const std::int64_t sample : samples)
    lengths.push_back(std::ssize(data.samples()[static_cast<std::size_t>(sample)].ids));
  for (const auto& pack : fill_packs(lengths, rows))
    for (const std::size_t i : pack) packed.push_back(samples[i]);
  return data.batch(packed, *reader_);
}

}  // namespace m3
