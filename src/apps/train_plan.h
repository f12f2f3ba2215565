// `m3 train --plan`.
#pragma once

#include <string>

#include "apps/model_options.h"
#include "apps/step_batches.h"
#include "base/result.h"
#include "train/training_plan.h"

namespace m3 {

struct PlanOptions {
  bool plan = false;
  std::string machine;  // what m3 bench --json wrote of it, or ""
  bool json = false;
};

void add_plan_options(CLI::App& command, PlanOptions& options);

// Prints memory, operations and traffic of a run and, of a measured machine, a step's time.
// `training` lacks the lengths of a step: they are the data's, or one sequence of its rows where
// there is none. Errors: those of the data and of plan_training().
Status print_plan(const PlanOptions& options, const ModelOptions& model, const StepOptions& steps,
                  PlannedTraining training);

}  // namespace m3
