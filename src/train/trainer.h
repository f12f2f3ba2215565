// Training step by step: derivatives, clipping, AdamW.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "base/thread_pool.h"
#include "train/adamw.h"
#include "train/differentiator.h"
#include "train/schedule.h"
#include "train/weight_gradients.h"

namespace m3 {

struct TrainerOptions {
  TrainedParts parts;
  float mtp_scale = 0;
  AdamWOptions adam;
  Schedule schedule;
  double clip = 1;        // the largest norm that is not scaled down; 0: none is
  std::int64_t rows = 0;  // that are computed together: the longest sequence fits
};

struct StepReport {
  double loss = 0;           // of a scored label, before the step; with the share of MTP modules
  double gradient_norm = 0;  // before clipping
  double rate = 0;
  std::int64_t scored = 0;
  std::string skipped;  // why no weight was changed, or empty
};

// Trains all weights of some parts of a model, as float32.
class Trainer {
 public:
  // `model` and `pool` outlive it; the model cannot be used after it is gone.
  // Errors: those of WeightGradients and Differentiator; the system has not the memory for it.
  static Result<std::unique_ptr<Trainer>> create(Model& model, const TrainerOptions& options,
                                                 ThreadPool& pool);

  // One step on a batch of sequences, each of at most `rows` rows. A step whose loss or gradient is
  // not finite, or that has no scored label, changes nothing and counts in the schedule.
  Result<StepReport> step(std::span<const TrainingSequence> sequences);

  // What is trained, and its float32 values.
  std::span<const WeightSpec> weights() const { return gradients_.weights(); }
  std::span<const Tensor> values() const { return masters_.tensors(); }

  // Of weights, derivatives, moments, and what the forward keeps.
  std::int64_t bytes() const;

 private:
  Trainer(const TrainerOptions& options, ThreadPool& pool, WeightGradients gradients);

  // Its reason, if the step is to be skipped.
  std::string why_skip(const StepReport& report, const GradientNorm& norm) const;

  TrainerOptions options_;
  ThreadPool* pool_;
  WeightGradients gradients_;
  MasterWeights masters_;
  AdamW adam_;
  std::unique_ptr<Differentiator> differentiator_;
  std::int64_t steps_ = 0;
};

}  // namespace m3
