// Training step by step: the official model's steps, and our own promises about them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/golden_file.h"
#include "tests/tiny_model.h"
#include "train/trainer.h"

namespace m3 {
namespace {

// The optimiser of the golden steps; no warm-up.
TrainerOptions options() {
  return {.adam = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1},
          .schedule = {.decay = Decay::kConstant, .rate = 3e-4},
          .clip = 1,
          .rows = 64};
}

std::vector<TrainingSequence> golden_batch(const GoldenFile& golden, std::int64_t step) {
  std::vector<TrainingSequence> batch;
  for (const std::string name : {".0", ".1"}) {
    const std::string at = std::to_string(step) + name;
    batch.push_back({golden.ints("ids." + at), golden.ints("labels." + at)});
  }
  return batch;
}

// A model that is being trained.
class Training {
 public:
  Training(const std::string& model, const Platform& platform, const TrainerOptions& options,
           int threads = 2)
      : tiny(tiny_model_directory(model), platform, threads), pool_(threads) {
    auto trainer = Trainer::create(*tiny.model, options, pool_);
    EXPECT_TRUE(trainer) << trainer.error().message;
    trainer_ = std::move(*trainer);
  }
  StepReport step(std::span<const TrainingSequence> batch) {
    const auto report = trainer_->step(batch);
    EXPECT_TRUE(report) << report.error().message;
    return *report;
  }

  TinyModel tiny;

 private:
  ThreadPool pool_;
  std::unique_ptr<Trainer> trainer_;
};

class Train : public testing::TestWithParam<Platform> {};

TEST_P(Train, StepsAreTheOfficialModels) {
  const GoldenFile golden("train-smooth-steps");
  const double allowed = GetParam().backend == "reference" ? 2e-5 : 0.05;
  Training training("train-smooth", GetParam(), options());
  const Tensor losses = golden.at("losses"), norms = golden.at("grad_norms");
  for (std::int64_t step = 0; step < losses.elements(); ++step) {
    const StepReport report = training.step(golden_batch(golden, step));
    EXPECT_EQ(report.skipped, "");
    EXPECT_NEAR(report.loss, losses.as<float>()[step], allowed * report.loss) << step;
    EXPECT_NEAR(report.gradient_norm, norms.as<float>()[step], allowed * report.gradient_norm)
        << step;
  }
}

TEST_P(Train, HasTheSameBitsForAnyNumberOfThreads) {
  const GoldenFile golden("train-smooth-steps");
  Training one("train", GetParam(), options(), 1), three("train", GetParam(), options(), 3);
  for (std::int64_t step = 0; step < 2; ++step) {
    const StepReport a = one.step(golden_batch(golden, step));
    const StepReport b = three.step(golden_batch(golden, step));
    EXPECT_EQ(a.loss, b.loss);
    EXPECT_EQ(a.gradient_norm, b.gradient_norm);
  }
}

// Spec: training §14, row 13. MTP modules learn beside the trunk.
TEST_P(Train, LearnsABatchByHeart) {
  const GoldenFile golden("train-smooth-steps");
  TrainerOptions o = options();
  o.parts.mtp = true;
  o.mtp_scale = 0.1f;
  o.schedule.rate = 2e-3;
  o.rows = 128;
  Training training("train-smooth", GetParam(), o);
  const auto batch = golden_batch(golden, 0);
  double loss = INFINITY;
  for (int step = 0; step < 100 && loss >= 0.05; ++step) loss = training.step(batch).loss;
  EXPECT_LT(loss, 0.05);
}

TEST_P(Train, SkipsWhatIsNotFiniteAndNamesIt) {
  const GoldenFile golden("train-smooth-steps");
  Training training("train", GetParam(), options());
  Weights& weights = training.tiny.model->weights();
  float& damaged = weights.final_norm.as<float>()[3];
  const float before = damaged;
  damaged = std::numeric_limits<float>::quiet_NaN();
  const StepReport skipped = training.step(golden_batch(golden, 0));
  EXPECT_NE(skipped.skipped.find("embed_tokens"), std::string::npos) << skipped.skipped;
  damaged = before;
  const StepReport next = training.step(golden_batch(golden, 0));
  Training fresh("train", GetParam(), options());
  EXPECT_EQ(next.loss, fresh.step(golden_batch(golden, 0)).loss);
}

TEST_P(Train, OfNothingScoredChangesNothing) {
  Training training("train", GetParam(), options());
  std::vector<TrainingSequence> batch(1);
  batch[0].ids.assign(20, 7);
  batch[0].labels.assign(20, kNotScored);
  const StepReport report = training.step(batch);
  EXPECT_EQ(report.loss, 0);
  EXPECT_NE(report.skipped, "");
}

std::vector<Platform> two_platforms() {
  const std::vector<Platform> all = platforms();
  return {all[0], all[1]};
}
INSTANTIATE_TEST_SUITE_P(Platforms, Train, testing::ValuesIn(two_platforms()),
                         [](const auto& platform) { return platform.param.backend; });

}  // namespace
}  // namespace m3
