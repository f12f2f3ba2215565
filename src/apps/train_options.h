// What `m3 train` is told, and what that comes to before anything is loaded.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/lora_options.h"
#include "apps/model_options.h"
#include "apps/run_folder.h"
#include "apps/side_loss_options.h"
#include "apps/step_batches.h"
#include "apps/train_plan.h"
#include "apps/training_samples.h"
#include "base/result.h"
#include "train/trainer.h"

namespace m3 {

struct TrainOptions {
  ModelOptions model;
  StepOptions steps;
  bool full = false;
  NewLoraOptions lora;
  SideLossOptions side;
  std::vector<std::string> parts;  // of --train; none: text
  std::optional<std::string> precision;
  std::string moments = "f32";
  std::optional<float> mtp_scale;
  std::int64_t pack = 0;  // 0: as many rows as the longest sequence has
  bool recompute = false;
  std::string schedule = "cosine";
  std::optional<double> rate, least_rate, weight_decay;
  std::optional<std::int64_t> warmup, decay_steps;
  std::vector<double> betas = {0.9, 0.95};
  double eps = AdamWOptions().eps;
  double clip = TrainerOptions().clip;
  RunFolderOptions folder;
  SampleOptions samples;
  std::int64_t patience = 0;
  std::string result;  // "last" or "best"; "": best with patience, else last
  PlanOptions plan;
  bool json = false;
};

void add_train_options(CLI::App& command, TrainOptions& options);
// Throws what CLI11 reports where there is nothing to train on, or where options of an adapter
// stand without one.
void expect_train_options(const CLI::App& command, const TrainOptions& options);

// Of names that --train has: text, mtp and vision. Errors: another name.
Result<TrainedParts> parts_named(const std::vector<std::string>& names);

// With the defaults (spec: training §8.1) of what was not given; without rows and schedule, which
// follow from the data. Errors: options that contradict each other or would have no effect.
Result<TrainerOptions> trainer_options(const TrainOptions& options);

// Whether the model that is trained reads pictures.
bool sees_pictures(const TrainOptions& options, const Config& config);

// Of a run of so many steps. Errors: it has fewer steps than the warm-up, or than that and the
// decay.
Result<Schedule> schedule_of(const TrainOptions& options, std::int64_t steps);

}  // namespace m3
