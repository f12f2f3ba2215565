// `m3 train --plan`.
#pragma once

#include <string>

#include "base/result.h"
#include "train/trainer.h"

namespace CLI {
class App;
}

namespace m3 {

struct TrainOptions;

struct PlanOptions {
  bool plan = false;
  std::string machine;  // what m3 bench --json wrote of it, or ""
};

void add_plan_options(CLI::App& command, PlanOptions& options);

// Prints memory, operations and traffic of a run and, of a measured machine, a step's time. The
// lengths of a step are the data's, or one sequence of --pack tokens where there is none. Errors:
// those of the data, of the adapter and of plan_training(); a backend that is not planned.
Status print_plan(const TrainOptions& options, const TrainerOptions& trainer);

}  // namespace m3
