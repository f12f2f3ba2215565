#include "apps/train_plan.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/option_checks.h"
#include "apps/progress_bar.h"
#include "apps/train_options.h"
#include "apps/training_file.h"
#include "base/machine.h"
#include "train/batch_mask.h"
#include "train/training_plan.h"

namespace m3 {
namespace {

constexpr std::int64_t kRows = 2048;  // where neither data nor --pack say

// A step whose samples are spread over the data from short to long.
void take_data(const Dataset& data, std::int64_t batch, PlannedTraining& training) {
  std::vector<const Sample*> samples;
  for (const Sample& sample : data.samples()) samples.push_back(&sample);
  std::ranges::sort(samples, {}, [](const Sample* sample) { return std::ssize(sample->ids); });
  const std::int64_t count = std::ssize(samples), taken = std::min(batch, count);
  for (std::int64_t i = 0; i < taken; ++i) {
    const Sample& sample = *samples[static_cast<std::size_t>((2 * i + 1) * count / (2 * taken))];
    training.lengths.push_back(std::ssize(sample.ids));
    training.scored += scored_tokens(sample);
  }
}

// The largest of the steps.
void take_batches(const std::vector<std::vector<TrainingSequence>>& batches,
                  PlannedTraining& training) {
  std::int64_t most = 0, longest = 0;
  for (const auto& batch : batches) {
    const std::vector<std::int64_t> lengths = lengths_of(batch);
    for (const std::int64_t length : lengths) longest = std::max(longest, length);
    if (rows_of(batch) <= most) continue;
    most = rows_of(batch);
    training.lengths = lengths;
    training.scored = scored_labels(batch);
  }
  training.rows = rows_together(training.rows, longest);
}

// All of them are held at once, and a step takes some more.
void take_masks(const std::vector<std::vector<TrainingSequence>>& batches,
                PlannedTraining& training) {
  std::int64_t held = 0, most = 0;
  for (const auto& batch : batches) {
    held += bias_bytes(batch);
    most = std::max(most, mask_bytes(batch, training.rows));
  }
  training.step_bytes = held + most;
}

// The rows that its longest sample takes.
Status take_validation(const StepOptions& steps, const ReadingModel& model,
                       PlannedTraining& training) {
  if (steps.validation.empty() || validation_share(steps)) return {};
  M3_TRY(const Dataset data, read_data("--val", validation_file(steps), model));
  training.rows = std::max(training.rows, data.longest());
  return {};
}

Status take_step(const TrainOptions& o, const Config& config, PlannedTraining& training) {
  const StepOptions& steps = o.steps;
  const ModelOptions& model = o.model;
  if (!steps.batches.empty()) {
    M3_TRY(const auto batches, read_training_batches(steps.batches, config));
    take_batches(batches, training);
    take_masks(batches, training);
    return {};
  }
  if (!steps.data.files.empty()) {
    ThreadPool pool(model.threads);
    M3_TRY(const Tokenizer tokenizer, Tokenizer::load(model.model));
    const ReadingModel reading{.directory = model.model,
                               .config = config,
                               .tokenizer = &tokenizer,
                               .vision = sees_pictures(o, config),
                               .pool = pool};
    M3_TRY(const Dataset data, read_data("--data", steps.data, reading));
    training.rows = rows_together(training.rows, data.longest());
    take_data(data, steps.batch, training);
    training.step_bytes =
        picture_bytes(data, config, steps.batch, !training.adapted && training.parts.vision);
    return take_validation(steps, reading, training);
  }
  if (training.rows == 0) training.rows = std::min(kRows, config.positions_max);
  training.lengths = {training.rows};
  training.scored = training.rows;
  return {};
}

bool holds_weights(const std::string& directory) {
  std::error_code error;
  for (std::filesystem::directory_iterator at(directory, error), end; !error && at != end;
       at.increment(error))
    if (at->path().extension() == ".safetensors") return true;
  return false;
}

std::string flops_text(double flops) {
  return fmt::format("{:.4g} TFLOP", flops / 1e12);
}

std::string bytes_text(std::int64_t bytes) {
  return quantity(static_cast<double>(bytes), "B");
}

std::string plan_text(const TrainingPlan& plan, const PlannedTraining& training) {
  const TrainingMemory& m = plan.memory;
  std::string text;
  const auto line = [&](std::string_view name, const std::string& value, std::string_view what) {
    text += fmt::format("{:<13} {:>12}  {}\n", name, value, what);
  };
  line("memory", bytes_text(m.total()), "");
  line("  weights", bytes_text(m.weights), "as they are stored, and not trained");
  line("  trained", bytes_text(m.trained),
       fmt::format("{} numbers: values, gradients and both moments", plan.trained));
  line("  activations", bytes_text(m.activations),
       fmt::format("of {} rows at a time{}", training.rows,
                   training.keep == Keep::kAll ? "; --recompute keeps less" : ""));
  line("  cache", bytes_text(m.cache), "keys and values of these rows");
  if (m.inputs > 0) line("  inputs", bytes_text(m.inputs), "masks and pictures");
  line("checkpoint", bytes_text(plan.checkpoint), "on the disk, each");
  line("step", fmt::format("{} tokens", plan.tokens),
       fmt::format("sequences: {}, scored tokens: {}, passes of {} rows: {}",
                   training.lengths.size(), training.scored, training.rows, plan.passes));
  line("operations", flops_text(plan.flops.useful()),
       fmt::format("forward {}, backward {}", flops_text(plan.flops.forward),
                   flops_text(plan.flops.backward)));
  if (plan.flops.repeated > 0)
    line("  repeated", flops_text(plan.flops.repeated), "by --recompute");
  line("traffic", bytes_text(plan.traffic), "between memory and processor, at least");
  return text;
}

nlohmann::ordered_json plan_json(const TrainingPlan& plan) {
  const TrainingMemory& m = plan.memory;
  return {{"memory",
           {{"total", m.total()},
            {"weights", m.weights},
            {"trained", m.trained},
            {"activations", m.activations},
            {"cache", m.cache},
            {"inputs", m.inputs}}},
          {"checkpoint", plan.checkpoint},
          {"trained_numbers", plan.trained},
          {"tokens", plan.tokens},
          {"passes", plan.passes},
          {"flops",
           {{"forward", plan.flops.forward},
            {"backward", plan.flops.backward},
            {"repeated", plan.flops.repeated}}},
          {"traffic", plan.traffic}};
}

}  // namespace

void add_plan_options(CLI::App& command, PlanOptions& options) {
  CLI::Option* plan = command.add_flag(
      "--plan", options.plan,
      "print what the run will take, without loading weights: memory, operations and traffic of a "
      "step; without data of a step of --pack tokens");
  command
      .add_option("--machine", options.machine,
                  "with --plan, the time of a step on the machine where m3 bench --json wrote this "
                  "file")
      ->check(CLI::ExistingFile)
      ->needs(plan);
}

Status print_plan(const TrainOptions& o, const TrainerOptions& trainer) {
  if (o.model.backend != "cpu")
    return fail("--plan counts what --backend cpu takes; --backend {} is not planned",
                o.model.backend);
  M3_TRY(const Config config, load_config(o.model.model));
  std::shared_ptr<const Checkpoint> checkpoint;
  if (holds_weights(o.model.model)) {
    M3_TRY(checkpoint, Checkpoint::open(o.model.model));
  } else {
    std::fprintf(stderr, "note: %s holds no weights; planned from its config.json\n",
                 o.model.model.c_str());
  }
  PlannedTraining training{.parts = trainer.parts,
                           .precision = trainer.precision,
                           .moments = trainer.adam.moments,
                           .keep = trainer.keep,
                           .vision = !o.model.language_model_only,
                           .rows = o.pack};
  if (!o.full) {
    M3_TRY(training.adapted, matrices_to_adapt(o.lora, config));
  }
  M3_TRY_STATUS(take_step(o, config, training));
  M3_TRY(const TrainingPlan plan, plan_training(config, checkpoint.get(), training));
  std::optional<double> seconds;
  if (!o.plan.machine.empty()) {
    M3_TRY(const MeasuredMachine machine, read_machine(o.plan.machine));
    seconds = seconds_of(plan, machine);
  }
  if (o.json) {
    nlohmann::ordered_json json = plan_json(plan);
    if (seconds) json["seconds"] = *seconds;
    std::printf("%s\n", json.dump().c_str());
    return {};
  }
  std::printf("%s", plan_text(plan, training).c_str());
  if (seconds)
    std::printf("%s", fmt::format("{:<13} {:>12}  {:.1f} tokens/s, pictures not counted\n", "time",
                                  fmt::format("{:.{}f} s", *seconds, *seconds < 100 ? 1 : 0),
                                  static_cast<double>(plan.tokens) / *seconds)
                          .c_str());
  if (const std::int64_t here = available_memory(); plan.memory.total() > here)
    std::printf("this machine has %s left: less than that\n", bytes_text(here).c_str());
  return {};
}

}  // namespace m3
