// Training step by step: the official model's steps, and our own promises about them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "tensor/float_matrix.h"
#include "tests/golden_file.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"
#include "train/run_checkpoint.h"
#include "train/save.h"
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

// Of different lengths, up to 47 tokens; the first eight tokens of each are not scored.
std::vector<TrainingSequence> eight_sequences() {
  std::vector<TrainingSequence> batch(8);
  for (std::int32_t s = 0; s < 8; ++s) {
    TrainingSequence& sequence = batch[static_cast<std::size_t>(s)];
    for (std::int32_t t = 0; t < 33 + 2 * s; ++t)
      sequence.ids.push_back(1 + (s * 131 + t * t * 17 + t * 3) % 400);
    sequence.labels.assign(sequence.ids.begin() + 1, sequence.ids.end());
    sequence.labels.push_back(kNotScored);
    std::fill_n(sequence.labels.begin(), 8, kNotScored);
  }
  return batch;
}

std::vector<float> numbers_of(const Tensor& x) {
  return {x.as<float>(), x.as<float>() + x.elements()};
}

std::vector<float> numbers_of(std::span<const Tensor> tensors) {
  std::vector<float> all;
  for (const Tensor& x : tensors)
    all.insert(all.end(), x.as<float>(), x.as<float>() + x.elements());
  return all;
}

double length(std::span<const float> x) {
  double squares = 0;
  for (const float value : x) squares += double{value} * value;
  return std::sqrt(squares);
}

// A model that is being trained; `model`: one of tests/data/models, or a directory.
class Training {
 public:
  Training(const std::string& model, const Platform& platform, const TrainerOptions& options,
           int threads = 2)
      : tiny(model.find('/') == std::string::npos ? tiny_model_directory(model) : model, platform,
             threads),
        pool_(threads) {
    auto trainer = Trainer::create(*tiny.model, options, pool_);
    EXPECT_TRUE(trainer) << trainer.error().message;
    trainer_ = std::move(*trainer);
  }
  StepReport step(std::span<const TrainingSequence> batch) {
    const auto report = trainer_->step(batch);
    EXPECT_TRUE(report) << report.error().message;
    return *report;
  }

  Trainer& trainer() { return *trainer_; }

  TinyModel tiny;

 private:
  ThreadPool pool_;
  std::unique_ptr<Trainer> trainer_;
};

class Train : public testing::TestWithParam<Platform> {};

TEST_P(Train, StepsAreTheOfficialModels) {
  const GoldenFile golden("train-smooth-steps");
  const double allowed = GetParam().backend == "reference" ? 2e-5 : 0.05;
  TrainerOptions o = options();
  o.precision = TrainingPrecision::kF32;
  Training training("train-smooth", GetParam(), o);
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
  TrainerOptions o = options();
  o.parts.mtp = true;
  o.mtp_scale = 0.1f;
  o.schedule.rate = 2e-3;
  o.rows = 400;
  Training training("train-smooth", GetParam(), o);
  const auto batch = eight_sequences();
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
  EXPECT_TRUE(skipped.skipped.starts_with("the loss and the gradient of ")) << skipped.skipped;
  EXPECT_EQ(skipped.not_finite, 0);
  damaged = before;
  Training fresh("train", GetParam(), options());
  for (std::int64_t step = 0; step < 3; ++step)
    EXPECT_EQ(training.step(golden_batch(golden, step)).loss,
              fresh.step(golden_batch(golden, step)).loss);
  EXPECT_EQ(numbers_of(training.trainer().values()), numbers_of(fresh.trainer().values()));
  EXPECT_EQ(numbers_of(training.trainer().first_moments()),
            numbers_of(fresh.trainer().first_moments()));
}

// Spec: training §14, row 11.
TEST_P(Train, AccumulatesWhatOnePackComesTo) {
  const auto batch = eight_sequences();
  for (const bool mtp : {false, true}) {
    TrainerOptions o = options();
    o.parts.mtp = mtp;
    o.mtp_scale = 0.1f;
    o.rows = 48;  // the longest
    Training apart("train", GetParam(), o);
    o.rows = 8 * 48;
    Training together("train", GetParam(), o);
    const StepReport a = apart.step(batch), b = together.step(batch);
    EXPECT_NEAR(a.loss, b.loss, 1e-5 * b.loss);
    EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-5 * b.gradient_norm);
    const auto weights = apart.trainer().weights();
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const auto expected = numbers_of(together.trainer().first_moments()[i]);
      auto difference = numbers_of(apart.trainer().first_moments()[i]);
      for (std::size_t n = 0; n < difference.size(); ++n) difference[n] -= expected[n];
      EXPECT_LE(length(difference), 1e-5 * length(expected) + 1e-10) << weights[i].name;
    }
  }
}

// Spec: training §8.4. The indexer is clipped by a norm of its own.
TEST_P(Train, ClipsByTheNormOfAll) {
  const auto batch = golden_batch(GoldenFile("train-smooth-steps"), 0);
  TrainerOptions o = options();
  o.parts.indexer = true;
  o.clip = 0;
  Training plain("train", GetParam(), o);
  const double norm = plain.step(batch).gradient_norm;
  const auto weights = plain.trainer().weights();
  double squares = 0;
  for (std::size_t i = 0; i < weights.size(); ++i)
    if (is_of_indexer(weights[i]))
      squares += std::pow(length(numbers_of(plain.trainer().first_moments()[i])) / 0.1, 2);
  const double indexer_norm = std::sqrt(squares);
  ASSERT_GT(indexer_norm, 0);
  ASSERT_GT(norm, 0);
  const auto factor = [](double clip, double of) { return of > clip ? clip / (of + 1e-6) : 1; };
  for (const double clip : {std::min(norm, indexer_norm) / 2, std::sqrt(norm * indexer_norm)}) {
    o.clip = clip;
    Training clipped("train", GetParam(), o);
    EXPECT_EQ(clipped.step(batch).gradient_norm, norm);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double scale = factor(clip, is_of_indexer(weights[i]) ? indexer_norm : norm);
      const auto before = numbers_of(plain.trainer().first_moments()[i]);
      const auto after = numbers_of(clipped.trainer().first_moments()[i]);
      for (std::size_t n = 0; n < before.size(); ++n)
        ASSERT_NEAR(after[n], before[n] * scale, 1e-6 * std::abs(before[n] * scale) + 1e-35)
            << weights[i].name;
    }
  }
  o.clip = 1.01 * std::max(norm, indexer_norm);
  Training free("train", GetParam(), o);
  free.step(batch);
  EXPECT_EQ(numbers_of(free.trainer().first_moments()),
            numbers_of(plain.trainer().first_moments()));
}

// A token that only the second sequence has.
TEST_P(Train, NamesTheSequenceWhoseLossIsNotFinite) {
  const GoldenFile golden("train-smooth-steps");
  Training training("train", GetParam(), options());
  const std::vector<TrainingSequence> batch = golden_batch(golden, 0);
  const std::vector<std::int32_t>&others = batch[0].ids, ids = batch[1].ids;
  const auto token = std::ranges::find_if(
      ids, [&](std::int32_t id) { return std::ranges::find(others, id) == others.end(); });
  ASSERT_NE(token, ids.end());
  Trainer& trainer = training.trainer();
  for (std::size_t i = 0; i < trainer.weights().size(); ++i)
    if (trainer.weights()[i].name.find("embed_tokens") != std::string::npos)
      *trainer.values()[i].row<float>(*token) = std::numeric_limits<float>::quiet_NaN();
  trainer.resume_at(0, 0);
  for (const TrainingSequence& sequence : batch) {
    const bool is_spoilt = &sequence == &batch[1];
    EXPECT_EQ(training.step({&sequence, 1}).not_finite.has_value(), is_spoilt);
  }
  EXPECT_EQ(training.step(batch).not_finite, 1);
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

// A checkpoint holds moments as they are kept, and nothing of other ones.
TEST_P(Train, GoesOnWithMomentsInBfloat16ToTheSameBits) {
  const TemporaryDirectory work;
  const auto batch = golden_batch(GoldenFile("train-smooth-steps"), 0);
  TrainerOptions o = options();
  o.adam.moments = DType::kBF16;
  Training training("train", GetParam(), o), resumed("train", GetParam(), o);
  for (int step = 0; step < 3; ++step) training.step(batch);
  std::int64_t numbers = 0;
  for (const Tensor& values : training.trainer().values()) numbers += values.elements();
  EXPECT_EQ(checkpoint_bytes(training.trainer()), 8 * numbers);
  const auto point = save_checkpoint(work.path(), training.trainer(), {}, {});
  ASSERT_TRUE(point) << point.error().message;
  const Status restored = restore_checkpoint(*point, resumed.trainer(), {});
  ASSERT_TRUE(restored) << restored.error().message;
  for (int step = 0; step < 2; ++step)
    EXPECT_EQ(training.step(batch).loss, resumed.step(batch).loss);

  Training other("train", GetParam(), options());
  const Status refused = restore_checkpoint(*point, other.trainer(), {});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("type"), std::string::npos) << refused.error().message;
}

std::vector<float> decoded(const Matrix& w) {
  std::vector<float> values(static_cast<std::size_t>(w.rows * w.cols));
  decode_all(w, values.data());
  return values;
}

// Every weight of a model's files, by name.
std::map<std::string, std::vector<float>> weights_in(const std::string& directory) {
  const auto source = ModelSource::open(directory, /*vision=*/true, nullptr);
  EXPECT_TRUE(source) << source.error().message;
  std::map<std::string, std::vector<float>> weights;
  for (const FoundWeight& found : (*source)->matched.found)
    weights[found.spec->name] = decoded(found.matrix);
  return weights;
}

// In bfloat16 a model is trained as it will be saved: the files answer as it did.
TEST_P(Train, WhatIsSavedIsWhatWasTrained) {
  const TemporaryDirectory work;
  const auto batch = golden_batch(GoldenFile("train-smooth-steps"), 0);
  Training training("train", GetParam(), options());
  for (int step = 0; step < 3; ++step) training.step(batch);
  const SaveOptions saving{.source = tiny_model_directory("train"),
                           .directory = work.path() + "/out"};
  ASSERT_TRUE(expect_savable(saving, training.trainer().weights()));
  ASSERT_TRUE(save_trained(saving, training.trainer().weights(), training.trainer().values()));
  Training saved(saving.directory, GetParam(), options());
  EXPECT_EQ(saved.step(batch).loss, training.step(batch).loss);
}

// From plain numbers and from MXFP8, where the indexer, frozen, is quantised beside trained q and
// k.
TEST(SaveTrained, WritesWhatWasTrainedAndKeepsTheRest) {
  const Platform reference{"reference", ""};
  for (const std::string model : {"train", "nano-mxfp8"}) {
    const TemporaryDirectory work;
    Training training(model, reference, options());
    training.step(golden_batch(GoldenFile("train-smooth-steps"), 0));
    const SaveOptions saving{.source = tiny_model_directory(model),
                             .directory = work.path() + "/new/out/"};
    const std::span<const WeightSpec> specs = training.trainer().weights();
    ASSERT_TRUE(expect_savable(saving, specs));
    const auto report = save_trained(saving, specs, training.trainer().values());
    ASSERT_TRUE(report) << report.error().message;

    const auto before = weights_in(saving.source), after = weights_in(saving.directory);
    std::map<std::string, Tensor> trained;
    for (std::size_t i = 0; i < specs.size(); ++i)
      trained[specs[i].name] = training.trainer().values()[i];
    ASSERT_EQ(before.size(), after.size());
    std::size_t changed = 0;
    for (const auto& [name, values] : after) {
      if (!trained.contains(name)) {
        EXPECT_EQ(values, before.at(name)) << name;
        continue;
      }
      changed += values != before.at(name);
      for (std::size_t i = 0; i < values.size(); ++i) {
        const float value = trained.at(name).as<float>()[i];
        ASSERT_NEAR(values[i], value, std::abs(value) / 256) << name;
      }
    }
    EXPECT_GT(changed, trained.size() / 2);
    // It loads and answers.
    Training again(saving.directory, reference, options());
    EXPECT_GT(again.step(golden_batch(GoldenFile("train-smooth-steps"), 0)).loss, 0);

    const Status twice = expect_savable(saving, specs);
    ASSERT_FALSE(twice);
    EXPECT_NE(twice.error().message.find("is there already"), std::string::npos);
    SaveOptions inside = saving;
    inside.directory = saving.source + "/inside";
    EXPECT_FALSE(expect_savable(inside, specs));
  }
}

INSTANTIATE_TEST_SUITE_P(Platforms, Train, testing::ValuesIn(two_platforms()),
                         [](const auto& platform) { return platform.param.backend; });

}  // namespace
}  // namespace m3
