// The steps of a training, one after the other: computed, told, saved.
#pragma once

#include "apps/run_folder.h"
#include "apps/step_batches.h"
#include "apps/training_samples.h"
#include "base/result.h"
#include "train/trainer.h"
#include "train/training_work.h"

namespace m3 {

struct TrainingRun {
  Trainer& trainer;
  StepBatches& batches;
  std::int64_t rows = 0;        // that are computed together
  RunFolder* folder = nullptr;  // none: nothing is kept
  bool json = false;            // on stdout, the lines of the log
  const TrainingWork* work = nullptr;
  double peak_tflop_per_s = 0;  // of the machine's matrix units; 0: unknown
  const TrainingSamples* samples = nullptr;
  std::int64_t patience = 0;  // validations without a lower loss that end the run; 0: none do
};

// The first of the lowest loss that is finite; null: there is none.
const ValidationLine* lowest(std::span<const ValidationLine> validations);

// Whether as many validations as `patience` says have passed since the lowest loss; never for 0,
// nor where no loss was finite.
bool has_lost_patience(std::span<const ValidationLine> validations, std::int64_t patience);

// From the trainer's step to the last, or to where patience is lost. SIGINT and SIGTERM let it end
// behind the step that is being computed; the second ends the program at once. Returns the signal,
// or 0 where it ended by itself. Errors: those of computing a step; for ten steps in a row, or
// for all of a shorter run, the loss or the gradient was not finite.
Result<int> run_steps(const TrainingRun& run);

// Ends the program by a signal that run_steps() returned, as whoever sent it expects.
[[noreturn]] void end_by(int signal);

}  // namespace m3
