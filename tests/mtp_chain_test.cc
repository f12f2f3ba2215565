// MTP modules from training to drafting: one chain, by whichever way it is computed.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/logits_run.h"
#include "base/file.h"
#include "engine/engine.h"
#include "engine/mtp_chain_drafter.h"
#include "tests/golden_file.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"
#include "train/save.h"
#include "train/trainer.h"

namespace m3 {
namespace {

std::vector<TrainingSequence> golden_batch() {
  const GoldenFile golden("train-gradients");
  return {{golden.ints("ids.0"), golden.ints("labels.0")},
          {golden.ints("ids.1"), golden.ints("labels.1")}};
}

// Each label is the token behind.
TrainingSequence text_of(std::vector<std::int32_t> ids) {
  TrainingSequence text{ids, {}};
  text.labels.assign(ids.begin() + 1, ids.end());
  text.labels.push_back(kNotScored);
  return text;
}

double cross_entropy(const Tensor& logits, std::int64_t row, std::int32_t label) {
  const float* z = logits.row<float>(row);
  double sum = 0;
  for (std::int64_t i = 0; i < logits.dim(1); ++i) sum += std::exp(double{z[i]} - z[label]);
  return std::log(sum);
}

Tensor named(const Recorder& recorder, const std::string& name) {
  for (const NamedTensor& tensor : recorder.tensors())
    if (tensor.name == name) return tensor.tensor;
  return {};
}

class TrainedChain : public testing::TestWithParam<Platform> {};

// The losses of every depth, by training and from the logits that inference computes.
TEST_P(TrainedChain, InferenceComputesWhatWasTrained) {
  const TinyModel tiny(chained_model_directory("train"), GetParam(), 1);
  const TrainedParts parts{.mtp = true};
  const auto gradients = WeightGradients::create(*tiny.model, parts);
  ASSERT_TRUE(gradients) << gradients.error().message;
  auto differentiator = Differentiator::create(*tiny.model, *gradients, /*tokens=*/128, 0.1f);
  ASSERT_TRUE(differentiator);
  for (const TrainingSequence& sequence : golden_batch()) {
    const auto losses = differentiator->losses({&sequence, 1});
    ASSERT_TRUE(losses);
    for (const std::int64_t chunk : {0, 7}) {
      const auto run =
          run_logits(*tiny.model, {.sequences = {sequence.ids}, .chunk = chunk, .mtp = true});
      ASSERT_TRUE(run) << run.error().message;
      for (std::int64_t depth = 0; depth < tiny.model->mtp_modules(); ++depth) {
        const Tensor logits = named(**run, fmt::format("mtp.{}.logits", depth));
        ASSERT_EQ(logits.dim(0), std::ssize(sequence.ids) - 1 - depth);
        double sum = 0;
        for (std::int64_t row = 0; row < logits.dim(0); ++row) {
          const auto label = sequence.labels[static_cast<std::size_t>(row + 1 + depth)];
          if (label != kNotScored) sum += cross_entropy(logits, row, label);
        }
        EXPECT_NEAR(sum, losses->mtp[static_cast<std::size_t>(depth)], 1e-5 * sum) << depth;
      }
    }
  }
}

// Spec: training §14, row 7. Of two documents in one call: a row predicts what lies so far behind
// it in its own document.
TEST_P(TrainedChain, EveryDepthHasItsLabels) {
  const TinyModel tiny(chained_model_directory("nano-mtp"), GetParam(), 1);
  const std::vector<TrainingSequence> documents = {text_of({11, 12, 13, 14, 15}),
                                                   text_of({21, 22, 23, 24})};
  constexpr std::int32_t kNone = kNotScored;
  // Of the trunk and of each module, for the rows of both documents.
  const std::vector<std::int32_t> table[] = {
      {12, 13, 14, 15, kNone, 22, 23, 24, kNone},
      {13, 14, 15, kNone, kNone, 23, 24, kNone, kNone},
      {14, 15, kNone, kNone, kNone, 24, kNone, kNone, kNone},
      {15, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone}};
  const auto gradients = WeightGradients::create(*tiny.model, {.mtp = true});
  ASSERT_TRUE(gradients) << gradients.error().message;
  auto differentiator = Differentiator::create(*tiny.model, *gradients, /*tokens=*/9, 0.1f);
  ASSERT_TRUE(differentiator);
  std::vector<std::unique_ptr<Recorder>> runs;
  for (const TrainingSequence& document : documents) {
    auto run = run_logits(*tiny.model, {.sequences = {document.ids}, .mtp = true});
    ASSERT_TRUE(run) << run.error().message;
    runs.push_back(std::move(*run));
  }
  for (const std::int32_t label : {12, 13, 14, 15, 22, 23, 24}) {
    auto scored = documents;
    for (TrainingSequence& document : scored)
      for (std::int32_t& other : document.labels) other = other == label ? label : kNone;
    const auto losses = differentiator->losses(scored);
    ASSERT_TRUE(losses) << losses.error().message;
    ASSERT_EQ(losses->mtp.size(), 3u);
    for (std::size_t depth = 0; depth < 4; ++depth) {
      const double loss = depth == 0 ? losses->main : losses->mtp[depth - 1];
      const auto row = std::ranges::find(table[depth], label) - table[depth].begin();
      if (row == 9) {
        EXPECT_EQ(loss, 0) << label << " at depth " << depth;
        continue;
      }
      const Tensor logits = named(*runs[row < 5 ? 0 : 1],
                                  depth == 0 ? "logits" : fmt::format("mtp.{}.logits", depth - 1));
      const double expected = cross_entropy(logits, row < 5 ? row : row - 5, label);
      EXPECT_NEAR(loss, expected, 1e-5 * expected) << label << " at depth " << depth;
    }
  }
}

// The backward pass then ends above the trunk.
TEST_P(TrainedChain, ModulesAloneHaveTheSameDerivatives) {
  const TinyModel tiny(chained_model_directory("train"), GetParam(), 1);
  std::map<std::string, std::vector<float>> with_trunk, alone;
  for (const bool text : {true, false}) {
    auto gradients = WeightGradients::create(*tiny.model, {.text = text, .mtp = true});
    ASSERT_TRUE(gradients) << gradients.error().message;
    EXPECT_EQ(gradients->lowest_layer(), text ? 0 : tiny.model->config().layers);
    auto differentiator = Differentiator::create(*tiny.model, *gradients, /*tokens=*/128, 0.1f);
    ASSERT_TRUE(differentiator);
    ASSERT_TRUE(differentiator->add(golden_batch(), 50));
    for (std::size_t i = 0; i < gradients->weights().size(); ++i) {
      const Tensor& g = gradients->tensors()[i];
      (text ? with_trunk : alone)[gradients->weights()[i].name] = {g.as<float>(),
                                                                   g.as<float>() + g.elements()};
    }
  }
  EXPECT_GT(alone.size(), 10u);
  for (const auto& [name, values] : alone) EXPECT_EQ(values, with_trunk.at(name)) << name;
}

// How many of the drafts behind each prompt are right, greedily.
double accepted_share(const TinyModel& tiny, std::span<const TrainingSequence> texts) {
  const std::int64_t drafts = tiny.model->mtp_modules();
  auto engine = Engine::create(*tiny.model,
                               {.context_tokens = 1024,
                                .draft_tokens = drafts,
                                .seconds = [now = 0.0]() mutable { return now += 1; }},
                               make_mtp_drafter(*tiny.model));
  EXPECT_TRUE(engine);
  std::int64_t drafted = 0, accepted = 0;
  for (const TrainingSequence& text : texts) {
    const SequenceId id = *(*engine)->start({.prompt = {text.ids.begin(), text.ids.begin() + 8},
                                             .max_tokens = std::ssize(text.ids) - 8,
                                             .sampling = {.temperature = 0},
                                             .stop_ids = {}});
    while (!(*engine)->idle()) (*engine)->step();
    for (const Acceptance::Count& count : (*engine)->acceptance(id)) {
      drafted += count.drafted;
      accepted += count.accepted;
    }
  }
  return static_cast<double>(accepted) / static_cast<double>(std::max<std::int64_t>(1, drafted));
}

INSTANTIATE_TEST_SUITE_P(Platforms, TrainedChain, testing::ValuesIn(two_platforms()),
                         [](const auto& platform) { return platform.param.backend; });

TEST(TrainedChainRun, DraftsWhatItWasTrainedToFromItsFiles) {
  const TemporaryDirectory work;
  std::vector<TrainingSequence> texts;
  for (int t = 0; t < 2; ++t) {
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 40; ++i) ids.push_back((t * 211 + i * i * 7 + i * 3) % 460);
    texts.push_back(text_of(ids));
  }
  const SaveOptions saving{.source = tiny_model_directory("train-smooth"),
                           .directory = work.path() + "/out"};
  ThreadPool pool(1);
  TinyModel before(saving.source, two_platforms().back(), 1);
  EXPECT_EQ(before.model->config().mtp_chain, MtpChain::kPreNorm);
  const double untrained = accepted_share(before, texts);
  auto trainer = Trainer::create(*before.model,
                                 {.parts = {.mtp = true},
                                  .mtp_scale = 1,
                                  .schedule = {.decay = Decay::kConstant, .rate = 4e-3},
                                  .rows = 80},
                                 pool);
  ASSERT_TRUE(trainer) << trainer.error().message;
  for (int step = 0; step < 60; ++step) {
    const auto report = (*trainer)->step(texts);
    ASSERT_TRUE(report);
    if (report->loss < 0.02) break;
  }
  ASSERT_TRUE(expect_savable(saving, (*trainer)->weights()));
  const auto saved = save_trained(saving, (*trainer)->weights(), (*trainer)->values());
  ASSERT_TRUE(saved) << saved.error().message;

  const TinyModel after(saving.directory, two_platforms().back(), 1);
  EXPECT_EQ(after.model->config().mtp_chain, MtpChain::kPostNorm);
  const double trained = accepted_share(after, texts);
  EXPECT_LT(untrained, 0.2);
  EXPECT_GT(trained, 0.9);
}

// By the command line: modules alone are trained, the trunk's bytes stay, and the config tells.
TEST(TrainedChainRun, SavesModulesThatDraft) {
  const TemporaryDirectory work;
  const std::string data = work.write("a.jsonl", nlohmann::json{{"text", "a b c d e f g"}}.dump());
  const std::string out = work.path() + "/out", model = tiny_model_directory("nano-mtp");
  const Outcome trained = run_m3("train " + model + " --data " + data +
                                 " --full --train mtp --batch 1 --steps 2 --out " + out);
  ASSERT_EQ(trained.status, 0) << trained.err;
  const auto config = nlohmann::json::parse(*read_text_file(out + "/config.json"));
  EXPECT_EQ(config["text_config"]["mtp_chain"], "post_norm");
  const std::string ask = " --ids-file " + work.write("ids.json", "[5, 900, 17, 3]") +
                          " --max-tokens 12 --temperature 0 --ignore-eos --json";
  const Outcome plain = run_m3("generate " + out + ask);
  const Outcome drafted = run_m3("generate " + out + ask + " --speculative mtp --draft-tokens 3");
  ASSERT_EQ(drafted.status, 0) << drafted.err;
  EXPECT_EQ(nlohmann::json::parse(plain.out)["ids"], nlohmann::json::parse(drafted.out)["ids"]);
  EXPECT_EQ(nlohmann::json::parse(plain.out)["ids"],
            nlohmann::json::parse(run_m3("generate " + model + ask).out)["ids"]);

  auto damaged = config;
  damaged["text_config"]["mtp_chain"] = "sideways";
  ASSERT_TRUE(write_text_file(out + "/config.json", damaged.dump()));
  expect_refused(run_m3("generate " + out + ask), {"mtp_chain", "sideways", "post_norm"});
}

// Modules alone leave the loss of next tokens as it is: only with their share is there a lowest.
TEST(TrainedChainRun, IsValidatedByWhatItsModulesLearn) {
  const TemporaryDirectory work;
  const std::string data = work.write("a.jsonl", nlohmann::json{{"text", "a b c d e f g"}}.dump());
  const Outcome trained = run_m3("train " + tiny_model_directory("nano-mtp") + " --data " + data +
                                 " --full --train mtp --batch 1 --steps 6 --lr 1e-2 --warmup 0 "
                                 "--json --val-every 1 --val " +
                                 data);
  ASSERT_EQ(trained.status, 0) << trained.err;
  std::vector<double> losses, of_steps;
  std::istringstream lines(trained.out);
  for (std::string line; std::getline(lines, line);) {
    const auto told = nlohmann::json::parse(line);
    const std::string of = told.contains("val_loss") ? "val_" : "";
    double sum = 0;
    for (int module = 1; module <= 3; ++module)
      sum += told[of + "mtp/loss_" + std::to_string(module)].get<double>();
    EXPECT_NEAR(told[of + "loss"], told[of + "loss_main"].get<double>() + 0.1 / 3 * sum, 1e-6);
    (of.empty() ? of_steps : losses).push_back(told[of + "loss"]);
  }
  ASSERT_EQ(losses.size(), 6u);
  EXPECT_LT(losses.back(), losses.front() - 1e-3);
  for (std::size_t i = 0; i + 1 < 6; ++i) EXPECT_NEAR(losses[i], of_steps[i + 1], 1e-6);
}

}  // namespace
}  // namespace m3
