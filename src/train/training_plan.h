// What a training run will need of a machine, from the headers of a model's files alone.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "model/config.h"
#include "model/lora.h"
#include "train/kept_activations.h"
#include "train/trained_weights.h"
#include "train/training_work.h"

namespace m3 {

struct PlannedTraining {
  TrainedParts parts;  // where there is no adapter
  TrainingPrecision precision = TrainingPrecision::kBF16;
  DType moments = DType::kF32;
  std::optional<AdaptedMatrices> adapted;  // by an adapter; none: the parts are trained
  Keep keep = Keep::kAll;
  bool vision = true;                 // the tower is loaded, if the model has one
  std::int64_t rows = 0;              // that are computed together
  std::vector<std::int64_t> lengths;  // of the sequences of a step
  std::int64_t scored = 0;            // of their rows
  std::int64_t step_bytes = 0;        // beside these rows: masks, pictures
};

// Bytes at the same time.
struct TrainingMemory {
  std::int64_t weights = 0;      // as the model reads them
  std::int64_t trained = 0;      // float32 values, gradients, both moments
  std::int64_t activations = 0;  // what forward keeps, and what backward works in
  std::int64_t cache = 0;   // keys, values and index keys of the rows that are computed together
  std::int64_t inputs = 0;  // PlannedTraining::step_bytes
  std::int64_t total() const { return weights + trained + activations + cache + inputs; }
};

struct TrainingPlan {
  TrainingMemory memory;
  TrainingFlops flops;          // of a step
  std::int64_t passes = 0;      // through the model, of `rows` each
  std::int64_t tokens = 0;      // of a step
  std::int64_t traffic = 0;     // bytes that a step moves between memory and processor, at least
  std::int64_t trained = 0;     // numbers
  std::int64_t checkpoint = 0;  // bytes on disk of what a run goes on from
};

// Reads no weights. Without a checkpoint (null) the model is as its config says, without MTP
// modules: it may declare some whose weights were never released. Operations on pictures are not
// counted. Errors: those of match_weights() and expect_parts(); MTP modules without a checkpoint.
Result<TrainingPlan> plan_training(const Config& config, const Checkpoint* checkpoint,
                                   const PlannedTraining& training);

// What `m3 bench --json` found of a machine.
struct MeasuredMachine {
  double read_gb_per_s = 0;
  double matrix_tflop_per_s = 0;
  double prefill_share = 0;  // of the matrix peak, of the longest prompt; 0: none was measured
};
// Errors: not such a file.
Result<MeasuredMachine> read_machine(const std::string& path);

// Of a step: multiplications at the share of the peak that prefill reached (or else the usual one),
// and the traffic at the speed of memory.
double seconds_of(const TrainingPlan& plan, const MeasuredMachine& machine);

}  // namespace m3
