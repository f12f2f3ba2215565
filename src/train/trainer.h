// Training step by step: derivatives, clipping, AdamW.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "base/thread_pool.h"
#include "model/lora.h"
#include "train/adamw.h"
#include "train/differentiator.h"
#include "train/measure.h"
#include "train/router_bias.h"
#include "train/schedule.h"
#include "train/weight_gradients.h"

namespace m3 {

// Which of load_measures() are wanted.
enum class LoadMeasures : std::uint8_t { kNone, kBrief, kByLayer };

struct TrainerOptions {
  TrainedParts parts;
  TrainingPrecision precision = TrainingPrecision::kBF16;
  float mtp_scale = 0;
  AdamWOptions adam;
  Schedule schedule;
  double clip = 1;              // the largest norm that is not scaled down; 0: none is
  double dropout = 0;           // of what an adapter's A read
  std::uint64_t seed = 0;       // of dropout
  std::int64_t rows = 0;        // that are computed together: the longest sequence fits
  std::int64_t step_bytes = 0;  // that a step takes beside what its rows do: masks, pictures
  Keep keep = Keep::kAll;
  double balance = 0;    // SideLosses::balance
  double bias_rate = 0;  // by which routers' biases follow the load (RouterBiases); 0: they do not
  LoadMeasures load_measures = LoadMeasures::kNone;
};

struct StepReport {
  double loss = 0;           // of a scored label, before the step; with the share of MTP modules
  double gradient_norm = 0;  // before clipping
  double rate = 0;
  std::int64_t scored = 0;
  std::string skipped;                          // why no weight was changed, or empty
  std::optional<std::int64_t> not_finite = {};  // the first sequence with a loss that is not
  // LossSums::measures() where MTP modules are trained.
  // Where it is asked for: load_measures(); moe/aux_loss_mean, the load balance, of a layer;
  // indexer_kl, the divergence of a row and index head, indexer_overlap and indexer_mass, all as
  // RankingMeasures has them, the last two of rows that had a choice.
  std::vector<Measure> measures = {};
};

// Trains all weights of some parts of a model, or an adapter on it, as float32.
class Trainer {
 public:
  // `model` and `pool` outlive it; the model cannot be used after it is gone.
  // With an adapter, which outlives it and is attached to the model, that alone is trained: the
  // model's weights stay as they are stored.
  // Errors: those of WeightGradients and Differentiator; the system has not the memory for it.
  static Result<std::unique_ptr<Trainer>> create(Model& model, const TrainerOptions& options,
                                                 ThreadPool& pool, Lora* adapter = nullptr);

  // One step on a batch of sequences, each of at most `rows` rows. A step whose loss or gradient is
  // not finite, or that has no scored label, changes nothing and counts in the schedule.
  Result<StepReport> step(std::span<const TrainingSequence> sequences);

  // The losses of such sequences, which change nothing.
  Result<LossSums> losses(std::span<const TrainingSequence> sequences);

  // What of these validations judge: the sum of the main loss, or, where that is a constant, as
  // modules alone are trained, of the loss with their share.
  double judged(const LossSums& losses) const {
    return options_.parts.only_mtp() ? losses.total(options_.mtp_scale) : losses.main;
  }

  // What is trained, and its float32 values: first what has derivatives and moments, then routers'
  // biases where they follow the load.
  std::span<const WeightSpec> weights() const { return weights_; }
  std::span<const Tensor> values() const { return values_; }

  // With the values, all that later steps follow from: how many there were, how many of them
  // changed weights, and AdamW's moments.
  std::int64_t steps() const { return steps_; }
  std::int64_t updates() const { return adam_.steps(); }
  std::span<const Tensor> first_moments() const { return adam_.first_moments(); }
  std::span<const Tensor> second_moments() const { return adam_.second_moments(); }
  // Goes on there. Values and moments have been filled with those of that moment.
  void resume_at(std::int64_t steps, std::int64_t updates);

 private:
  Trainer(const TrainerOptions& options, ThreadPool& pool, WeightGradients gradients);

  std::uint64_t dropout_key(std::uint64_t pack) const;
  // Some of what has derivatives, which are clipped by a norm of their own.
  struct Group {
    std::vector<Tensor> gradients;
    std::vector<std::string> names;
  };
  // Errors: the system has not the memory for what steps take.
  Status expect_memory() const;
  Status add_biases(Model& model);
  void group_gradients();
  // By which clipping scales gradients of this norm.
  double clipping(const GradientNorm& norm) const;
  void measure(const LossSums& sums, StepReport& report) const;
  // Its reason, if the step is to be skipped.
  std::string why_skip(const StepReport& report, const GradientNorm& norm,
                       const Group& group) const;

  TrainerOptions options_;
  ThreadPool* pool_;
  WeightGradients gradients_;
  MasterWeights masters_;  // without an adapter
  RouterBiases biases_;
  std::vector<WeightSpec> weights_;
  std::vector<Tensor> values_;  // of these, or of the adapter; then the biases
  // The indexer has a loss of its own, which is not to change how far others go.
  Group main_, indexer_;
  Lora* adapter_ = nullptr;
  AdamW adam_;
  std::unique_ptr<Differentiator> differentiator_;
  std::int64_t steps_ = 0;
};

}  // namespace m3
