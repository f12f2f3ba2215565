// Routers and indexers in training: what moves them, and that nothing else does.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/golden_file.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"
#include "train/run_checkpoint.h"
#include "train/save.h"
#include "train/trainer.h"

namespace m3 {
namespace {

std::vector<TrainingSequence> golden_batch() {
  const GoldenFile golden("train-smooth-steps");
  return {{golden.ints("ids.0.0"), golden.ints("labels.0.0")},
          {golden.ints("ids.0.1"), golden.ints("labels.0.1")}};
}

TrainerOptions options() {
  return {.adam = {.weight_decay = 0.1},
          .schedule = {.decay = Decay::kConstant, .rate = 1e-3},
          .rows = 64};
}

using Values = std::map<std::string, std::vector<float>>;

struct Training {
  Training(const Platform& platform, const TrainerOptions& options)
      : tiny(tiny_model_directory("train"), platform, /*threads=*/1) {
    auto made = Trainer::create(*tiny.model, options, pool);
    EXPECT_TRUE(made) << made.error().message;
    trainer = std::move(*made);
  }
  StepReport step() {
    const auto report = trainer->step(golden_batch());
    EXPECT_TRUE(report) << report.error().message;
    EXPECT_EQ(report->skipped, "");
    return *report;
  }
  Values values() const {
    Values values;
    for (std::size_t i = 0; i < trainer->weights().size(); ++i) {
      const Tensor& tensor = trainer->values()[i];
      values[trainer->weights()[i].name] = {tensor.as<float>(),
                                            tensor.as<float>() + tensor.elements()};
    }
    return values;
  }

  TinyModel tiny;
  ThreadPool pool{1};
  std::unique_ptr<Trainer> trainer;
};

double measure(const StepReport& report, const std::string& name) {
  for (const Measure& measure : report.measures)
    if (measure.name == name) return measure.value;
  ADD_FAILURE() << "no " << name;
  return NAN;
}

class SideLoss : public testing::TestWithParam<Platform> {};

// Every bias goes one step of the rate, or none, the way that levels the loads; the loads are
// counted by running the model as inference does.
TEST_P(SideLoss, TheBiasFollowsTheLoad) {
  TrainerOptions o = options();
  o.bias_rate = 1e-3;
  Training training(GetParam(), o);
  const Model& model = *training.tiny.model;
  ExpertLoads loads(model);
  for (const TrainingSequence& sequence : golden_batch()) {
    auto cache = PagedCache::create(model.config(), model.cache_format(), 16, model.mtp_modules());
    const auto rows = std::ssize(sequence.ids);
    ActivationArena arena(model.config(), rows, rows);
    Batch batch;
    std::vector<std::int32_t> pages(16);
    for (std::int32_t page = 0; page < 16; ++page) pages[static_cast<std::size_t>(page)] = page;
    batch.add_sequence(sequence.ids, 0, pages, /*all_outputs=*/true);
    model.forward(batch, *cache, arena, loads);
  }
  const Values before = training.values();
  training.step();
  const Values after = training.values();
  std::size_t moved = 0;
  for (std::int64_t layer = 0; layer < model.config().layers; ++layer) {
    const LayerLoads& load = loads.layers()[static_cast<std::size_t>(layer)];
    if (load.empty()) continue;
    const std::string name = fmt::format(
        "language_model.model.layers.{}.block_sparse_moe.e_score_correction_bias", layer);
    const double mean =
        std::accumulate(load.begin(), load.end(), 0.0) / static_cast<double>(load.size());
    for (std::size_t e = 0; e < load.size(); ++e) {
      const double under = mean - static_cast<double>(load[e]);
      const double step = under > 0 ? 1e-3 : under < 0 ? -1e-3 : 0;
      EXPECT_FLOAT_EQ(after.at(name)[e], static_cast<float>(before.at(name)[e] + step));
      EXPECT_EQ(model.layer_weights(layer).moe->router_bias.as<float>()[e], after.at(name)[e]);
      moved += step != 0;
    }
  }
  EXPECT_GT(moved, 4u);
}

TEST_P(SideLoss, BiasesStayWithoutARate) {
  Training training(GetParam(), options());
  const auto& bias = training.tiny.model->layer_weights(1).moe->router_bias;
  const std::vector<float> before(bias.as<float>(), bias.as<float>() + bias.elements());
  training.step();
  EXPECT_EQ(before, std::vector<float>(bias.as<float>(), bias.as<float>() + bias.elements()));
  for (const auto& [name, values] : training.values())
    EXPECT_EQ(name.find("e_score_correction_bias"), std::string::npos);
}

// The divergence moves the indexer and nothing else; other losses do not move it.
TEST_P(SideLoss, TheIndexerLearnsAlone) {
  TrainerOptions o = options();
  Training plain(GetParam(), o);
  o.parts.indexer = true;
  Training taught(GetParam(), o);
  const Values before = taught.values();
  const StepReport a = plain.step(), b = taught.step();
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.gradient_norm, b.gradient_norm);
  const Values with = taught.values(), without = plain.values();
  std::size_t indexers = 0;
  for (const auto& [name, values] : with) {
    if (const auto same = without.find(name); same != without.end()) {
      EXPECT_EQ(values, same->second) << name;
    } else {
      EXPECT_NE(name.find(".self_attn.index_"), std::string::npos) << name;
      EXPECT_NE(values, before.at(name)) << name;
      ++indexers;
    }
  }
  EXPECT_EQ(indexers, 2 * 4u);
  EXPECT_EQ(with.size(), without.size() + indexers);
}

// What a row attends to under such a mask, its indexer cannot foresee.
TEST_P(SideLoss, NoIndexerLearnsUnderAMaskOfPairs) {
  TrainerOptions o = options();
  o.parts.indexer = true;
  Training taught(GetParam(), o);
  std::vector<TrainingSequence> masked = golden_batch();
  TrainingSequence& one = masked.front();
  one.bias.assign(one.ids.size() * one.ids.size(), 0.0f);
  const auto report = taught.trainer->step(masked);
  ASSERT_FALSE(report);
  EXPECT_NE(report.error().message.find("indexers learn only where"), std::string::npos);
}

// With recompute, and in other company, it learns the same.
TEST_P(SideLoss, TheIndexersStepDependsOnNothingElse) {
  TrainerOptions o = options();
  o.parts.indexer = true;
  Training one(GetParam(), o);
  one.step();
  o.keep = Keep::kInputs;
  Training again(GetParam(), o);
  again.step();
  EXPECT_EQ(one.values(), again.values());
}

INSTANTIATE_TEST_SUITE_P(Platforms, SideLoss, testing::ValuesIn(two_platforms()),
                         [](const auto& platform) { return platform.param.backend; });

TEST(SideLossRun, BalancesTheLoad) {
  TrainerOptions o = options();
  o.load_measures = LoadMeasures::kBrief;
  const auto after = [&](double balance) {
    o.balance = balance;
    Training training(two_platforms().back(), o);
    StepReport report = training.step();
    for (int step = 0; step < 12; ++step) report = training.step();
    return report;
  };
  o.schedule.rate = 3e-3;
  const StepReport plain = after(0), balanced = after(1);
  EXPECT_LT(measure(balanced, "moe/cv_mean"), 0.8 * measure(plain, "moe/cv_mean"));
  EXPECT_LT(measure(balanced, "moe/aux_loss_mean"), 1.15);
  for (const Measure& m : plain.measures) EXPECT_NE(m.name, "moe/aux_loss_mean");
}

TEST(SideLossRun, TheIndexerComesToRankAsAttentionDoes) {
  TrainerOptions o = options();
  o.parts.indexer = true;
  o.schedule.rate = 3e-3;
  o.adam.weight_decay = 0;
  o.rows = 128;
  Training training(two_platforms().back(), o);
  // The trunk stays, so that what is to be foreseen does.
  const StepReport first = training.step();
  const Values start = training.values();
  const auto hold_the_trunk = [&] {
    for (std::size_t i = 0; i < training.trainer->weights().size(); ++i) {
      const std::string& name = training.trainer->weights()[i].name;
      if (name.find(".self_attn.index_") != std::string::npos) continue;
      std::ranges::copy(start.at(name), training.trainer->values()[i].as<float>());
    }
  };
  StepReport last;
  for (int step = 0; step < 40; ++step) {
    hold_the_trunk();
    last = training.step();
  }
  EXPECT_LT(measure(last, "indexer_kl"), 0.2 * measure(first, "indexer_kl"));
  EXPECT_GT(measure(last, "indexer_overlap"), measure(first, "indexer_overlap") + 0.03);
  EXPECT_GT(measure(last, "indexer_mass"), measure(first, "indexer_mass"));
}

// Biases, indexers and their moments go on to the same bits.
TEST(SideLossRun, GoesOnToTheBit) {
  const Platform platform = two_platforms().back();
  TrainerOptions o = options();
  o.parts = {.mtp = true, .indexer = true};
  o.mtp_scale = 0.1f;
  o.bias_rate = 1e-3;
  o.balance = 0.01;
  Training whole(platform, o);
  for (int step = 0; step < 4; ++step) whole.step();
  const TemporaryDirectory work;
  {
    Training stopped(platform, o);
    stopped.step();
    stopped.step();
    ASSERT_TRUE(save_checkpoint(work.path(), *stopped.trainer, {}, {}));
  }
  Training resumed(platform, o);
  const auto list = list_checkpoints(work.path());
  ASSERT_EQ(list.size(), 1u);
  const Status restored = restore_checkpoint(*list[0].checkpoint, *resumed.trainer, {});
  ASSERT_TRUE(restored) << restored.error().message;
  resumed.step();
  resumed.step();
  EXPECT_EQ(whole.values(), resumed.values());

  const SaveOptions saving{.source = tiny_model_directory("train"),
                           .directory = work.path() + "/out"};
  const auto saved = save_trained(saving, whole.trainer->weights(), whole.trainer->values());
  ASSERT_TRUE(saved) << saved.error().message;
  const TinyModel loaded(saving.directory, platform, 1);
  const std::string bias = "language_model.model.layers.1.block_sparse_moe.e_score_correction_bias";
  const Tensor& of_files = loaded.model->layer_weights(1).moe->router_bias;
  EXPECT_EQ(whole.values().at(bias),
            std::vector<float>(of_files.as<float>(), of_files.as<float>() + of_files.elements()));
}

TEST(SideLossRun, NeedsAnIndexerToTeach) {
  const TemporaryDirectory work;
  const std::string model = work.path() + "/model", config = model + "/config.json";
  std::filesystem::copy(tiny_model_directory("train"), model);
  auto json = nlohmann::ordered_json::parse(*read_text_file(config));
  json["text_config"]["sparse_attention_config"]["use_sparse_attention"] = false;
  ASSERT_TRUE(write_text_file(config, json.dump()));
  const std::string batches = work.write(
      "b.json", R"({"steps": [{"sequences": [{"ids": [1, 2, 3], "labels": [2, 3, -100]}]}]})");
  expect_refused(run_m3("train " + model + " --batches " + batches + " --full --indexer kl"),
                 {"no sparse layers"});
}

TEST(SideLossRun, IsLoggedUnderItsKeys) {
  const TemporaryDirectory work;
  const std::string data =
      work.write("a.jsonl", nlohmann::json{{"text", std::string(200, 'a') + " b c d"}}.dump());
  const std::string out = work.path() + "/out";
  const std::string command = "train " + nano() + " --data " + data +
                              " --full --batch 1 --steps 2 --load-balance-loss 0.01 --indexer kl "
                              "--router-bias-rate 1e-3 --router-metrics detailed --out " +
                              out;
  const Outcome trained = run_m3(command);
  ASSERT_EQ(trained.status, 0) << trained.err;
  const std::string log = *read_text_file(out + "/log.jsonl");
  const auto line = nlohmann::json::parse(log.substr(0, log.find('\n')));
  for (const char* key :
       {"moe/cv_mean", "moe/cv_max", "moe/expert_utilization_max", "moe/dead_expert_frac_mean",
        "moe/expert_diversity_mean", "moe/aux_loss_mean", "moe/layer_1/cv",
        "moe_expert_utilization/layer_1_expert_0", "indexer_kl"})
    EXPECT_TRUE(line.contains(key) && line[key].is_number()) << key;
  for (const char* word : {"moe/aux_loss_mean ", "indexer_kl "})
    EXPECT_NE(trained.out.find(word), std::string::npos) << trained.out;
  EXPECT_EQ(trained.out.find("moe/cv"), std::string::npos) << trained.out;
  std::string events;
  for (const auto& file : std::filesystem::directory_iterator(out))
    if (file.path().filename().string().starts_with("events"))
      events = *read_text_file(file.path());
  EXPECT_NE(events.find("moe/cv_mean"), std::string::npos);
  const auto run = nlohmann::json::parse(*read_text_file(out + "/run.json"))["run"];
  EXPECT_EQ(run["--router-bias-rate"], "0.001");
  EXPECT_EQ(run["--indexer"], "kl");

  const std::string lora = "train " + nano() + " --data " + data + " --lora attn --rank 2 ";
  for (const char* option : {"--load-balance-loss 0.1", "--router-bias-rate 1e-3", "--indexer kl"})
    expect_refused(run_m3(lora + option), {"--full", "adapter"});
}

}  // namespace
}  // namespace m3
