// The steps of a training, one after the other: computed, told, saved.
#pragma once

#include "apps/run_folder.h"
#include "apps/step_batches.h"
#include "base/result.h"
#include "train/trainer.h"

namespace m3 {

struct TrainingRun {
  Trainer& trainer;
  StepBatches& batches;
  std::int64_t rows = 0;        // that are computed together
  RunFolder* folder = nullptr;  // none: nothing is kept
  bool json = false;            // on stdout, the lines of the log
};

// From the trainer's step to the last. SIGINT and SIGTERM let it end behind the step that is being
// computed; the second ends the program at once. Returns the signal, or 0 where all steps are done.
// Errors: those of computing a step.
Result<int> run_steps(const TrainingRun& run);

// Ends the program by a signal that run_steps() returned, as whoever sent it expects.
[[noreturn]] void end_by(int signal);

}  // namespace m3
