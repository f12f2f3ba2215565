// Adapters that go on from files, and adapters on 4-bit bases.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "model/lora_files.h"
#include "model/lora_training.h"
#include "model/random_values.h"
#include "model/synth.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"
#include "train/differentiator.h"

namespace m3 {
namespace {

using nlohmann::json;

constexpr LoraOptions kAll{.groups = {{{4, 8}, {4, 8}, {4, 8}, {2, 6}}}, .seed = 1};

std::vector<WeightSpec> table_of(const Model& model) {
  return *weight_table(model.config(), model.mtp_modules());
}

// Two sequences that follow from nothing else.
std::vector<TrainingSequence> samples(std::int32_t length) {
  std::vector<TrainingSequence> sequences(2);
  for (std::int32_t s = 0; s < 2; ++s)
    for (std::int32_t t = 0; t < length; ++t) {
      sequences[static_cast<std::size_t>(s)].ids.push_back(1 + (s * 131 + t * t * 17) % 400);
      sequences[static_cast<std::size_t>(s)].labels.push_back(1 + (s * 57 + t * 31) % 400);
    }
  return sequences;
}

std::string batches_file(const TemporaryDirectory& work) {
  json sequences = json::array();
  for (const TrainingSequence& s : samples(24))
    sequences.push_back({{"ids", s.ids}, {"labels", s.labels}});
  const json step = {{"sequences", sequences}};
  return work.write("batches.json", json{{"steps", {step, step}}}.dump());
}

// Mean cross entropy of the samples by `m3 logits` of this model and these options.
double loss_of(const std::string& model, const TemporaryDirectory& work) {
  double sum = 0;
  std::size_t count = 0;
  for (const TrainingSequence& sequence : samples(24)) {
    const std::string ids = work.write("ids.json", json(sequence.ids).dump());
    const std::string out = work.path() + "/logits.safetensors";
    const Outcome told = run_m3("logits " + model + " --ids-file " + ids + " --out " + out);
    EXPECT_EQ(told.status, 0) << told.err;
    const auto file = SafetensorsFile::open(out);
    EXPECT_TRUE(file) << file.error().message;
    const Tensor logits = (*file)->tensor(*(*file)->find("logits"));
    for (std::size_t t = 0; t < sequence.labels.size(); ++t, ++count) {
      const float* row = logits.as<float>() + static_cast<std::int64_t>(t) * logits.dim(1);
      const double largest = *std::max_element(row, row + logits.dim(1));
      double total = 0;
      for (std::int64_t id = 0; id < logits.dim(1); ++id) total += std::exp(row[id] - largest);
      sum += largest + std::log(total) - row[sequence.labels[t]];
    }
  }
  return sum / static_cast<double>(count);
}

std::vector<double> losses_of(const Outcome& trained) {
  EXPECT_EQ(trained.status, 0) << trained.err;
  std::vector<double> losses;
  std::istringstream lines(trained.out);
  for (std::string line; std::getline(lines, line);)
    if (const json told = json::parse(line, nullptr, false); told.contains("loss"))
      losses.push_back(told["loss"]);
  return losses;
}

// ------------------------------------------------------------------------------- from files

class FromAdapter : public testing::Test {
 protected:
  // An adapter on nano, written under both names; B of some size, as after training.
  FromAdapter() {
    lora_ = *Lora::create(tiny_.model->config(), table_of(*tiny_.model), kAll);
    std::uint64_t key = 7;
    for (const LoraModule& module : lora_.modules())
      fill_random(++key, 0, module.b.elements(), {0, 0.05}, module.b.as<float>());
    EXPECT_TRUE(save_lora(lora_, {file("ours"), nano(), LoraNames::kTransformers}));
    EXPECT_TRUE(save_lora(lora_, {file("released"), nano(), LoraNames::kReleased}));
  }
  std::string file(const std::string& name) const { return work_.path() + "/" + name; }
  std::string train(const std::string& more) const {
    return "train " + nano() + " --batches " + batches_ + " --lr 0.01 " + more;
  }
  Lora loaded(const std::string& directory) {
    auto lora = load_lora(directory, table_of(*tiny_.model));
    EXPECT_TRUE(lora) << lora.error().message;
    return std::move(*lora);
  }

  TemporaryDirectory work_;
  const std::string batches_ = batches_file(work_);
  TinyModel tiny_{nano(), {"cpu", ""}, 2};
  Lora lora_;
};

TEST_F(FromAdapter, TrainingGoesOnWhereItWas) {
  for (const std::string on : {" --backend cpu", " --backend reference"}) {
    const double expected = loss_of(nano() + on + " --lora " + file("ours"), work_);
    const auto losses = losses_of(run_m3(train("--json --adapter " + file("ours") + on)));
    ASSERT_EQ(losses.size(), 2u);
    EXPECT_NEAR(losses[0], expected, 1e-6 * expected);
    EXPECT_LT(losses[1], losses[0]);
    // What released names write twice is one A again: the same steps, to the bit.
    EXPECT_EQ(losses_of(run_m3(train("--json --adapter " + file("released") + on +
                                     " --lora attn,dense,shared,experts --rank 4,experts=2"))),
              losses);
  }
}

TEST_F(FromAdapter, TheModulesAreThoseOfANewOne) {
  const auto table = table_of(*tiny_.model);
  const Config& config = tiny_.model->config();
  for (const char* name : {"ours", "released"}) {
    const auto trained = lora_to_train(loaded(file(name)), config, table);
    ASSERT_TRUE(trained) << trained.error().message;
    EXPECT_TRUE(fits_transformers(*trained, config, table));
    ASSERT_EQ(trained->modules().size(), lora_.modules().size());
    for (const LoraModule& module : lora_.modules()) {
      const auto same = std::ranges::find(trained->modules(), module.name, &LoraModule::name);
      ASSERT_NE(same, trained->modules().end()) << module.name;
      EXPECT_EQ(same->size.rank, module.size.rank);
      EXPECT_EQ(same->size.alpha, module.size.alpha);
      for (const auto& [ours, theirs] : {std::pair{module.a, same->a}, {module.b, same->b}})
        EXPECT_TRUE(
            std::equal(ours.as<float>(), ours.as<float>() + ours.elements(), theirs.as<float>()))
            << module.name;
    }
  }
}

// A gate and an up with A's of their own, as peft makes them of released weights, and a scale of
// alpha / sqrt(rank).
TEST_F(FromAdapter, WhatDoesNotFitKeepsItsModules) {
  const auto table = table_of(*tiny_.model);
  const LoraSites sites = lora_sites(table);
  const std::string mlp = "language_model.model.layers.0.mlp.";
  Lora lora;
  std::uint64_t key = 70;
  for (const char* name : {"gate_proj", "up_proj"}) {
    const auto module = lora.add(sites.at(mlp + name), {4, 6}, 3);
    ASSERT_TRUE(module);
    fill_random(++key, 0, (*module)->a.elements(), {0, 0.1}, (*module)->a.as<float>());
    fill_random(++key, 0, (*module)->b.elements(), {0, 0.1}, (*module)->b.as<float>());
  }
  const auto trained = lora_to_train(lora, tiny_.model->config(), table);
  ASSERT_TRUE(trained);
  ASSERT_EQ(trained->modules().size(), 2u);
  EXPECT_EQ(trained->modules()[0].name, mlp + "gate_proj");
  EXPECT_EQ(trained->modules()[0].size.alpha, 12);
  EXPECT_FALSE(fits_transformers(*trained, tiny_.model->config(), table));

  ASSERT_TRUE(save_lora(*trained, {file("apart"), nano(), LoraNames::kReleased}));
  const std::string go_on = train("--json --adapter " + file("apart"));
  const Outcome told = run_m3(go_on + " --out " + file("run"));
  EXPECT_NE(told.err.find("saved under released names"), std::string::npos) << told.err;
  const auto losses = losses_of(told);
  ASSERT_EQ(losses.size(), 2u);
  const double expected = loss_of(nano() + " --lora " + file("apart"), work_);
  EXPECT_NEAR(losses[0], expected, 1e-6 * expected);
  EXPECT_LT(losses[1], losses[0]);
  EXPECT_EQ(loaded(file("run")).modules().size(), 2u);
  expect_refused(run_m3(go_on + " --lora-names transformers"), {"--lora-names", "released"});
}

TEST_F(FromAdapter, WhatContradictsItIsRefused) {
  const std::string go_on = train("--adapter " + file("ours") + " ");
  expect_refused(run_m3(go_on + "--lora attn"), {"--lora", "dense", "adapts it"});
  expect_refused(run_m3(go_on + "--rank 4"), {"--rank 4", "2 for experts"});
  expect_refused(run_m3(go_on + "--alpha experts=7"), {"--alpha"});
  expect_refused(run_m3(go_on + "--full"), {"--full", "--adapter"});
  expect_refused(run_m3(train("--adapter " + nano())), {"is no adapter"});
  EXPECT_EQ(run_m3(train("--adapter " + file("absent"))).status, 2);
  expect_refused(
      run_m3("train " + tiny_model_directory("train") + " --batches " + batches_ + " --adapter " +
             file("ours")),
      {file("ours") + "/adapter_model.safetensors", "an adapter of another model", "8 experts"});

  Lora head;
  ASSERT_TRUE(head.add(lora_sites(table_of(*tiny_.model)).at("language_model.lm_head"), {2, 2}, 1));
  ASSERT_TRUE(save_lora(head, {file("head"), nano(), LoraNames::kReleased}));
  expect_refused(run_m3(train("--adapter " + file("head"))), {"--adapter", "lm_head"});
}

TEST_F(FromAdapter, ARunIsKnownByWhatItBeganWith) {
  const std::string out = " --out " + file("run");
  EXPECT_EQ(run_m3(train("--adapter " + file("ours") + out)).status, 0);
  const std::string again = out + " --resume";
  EXPECT_EQ(run_m3(train("--adapter " + file("released") + again)).status, 0);  // the same numbers
  lora_.modules()[0].b.as<float>()[0] += 1;
  ASSERT_TRUE(save_lora(lora_, {file("other"), nano()}));
  expect_refused(run_m3(train("--adapter " + file("other") + again)), {"--adapter", "xxh3"});
}

// ------------------------------------------------------------------------------- 4-bit bases

class LoraOn4Bits : public testing::TestWithParam<Format> {
 protected:
  LoraOn4Bits() {
    const auto config =
        read_text_file(std::string(M3_SOURCE_DIR) + "/tests/data/models/train-smooth/config.json");
    EXPECT_TRUE(config);
    const Status written = synth_checkpoint(
        {.config_json = *config, .directory = model_, .seed = 32, .format = GetParam()});
    EXPECT_TRUE(written) << written.error().message;
  }
  static Lora filled(const Model& model) {
    Lora lora = *Lora::create(model.config(), table_of(model), kAll);
    std::uint64_t key = 7;
    for (const LoraModule& module : lora.modules())
      fill_random(++key, 0, module.b.elements(), {0, 0.1}, module.b.as<float>());
    return lora;
  }

  TemporaryDirectory work_;
  const std::string model_ = work_.path() + "/model";
};

INSTANTIATE_TEST_SUITE_P(Formats, LoraOn4Bits, testing::Values(Format::kMxfp4, Format::kNvfp4),
                         [](const auto& format) {
                           return format.param == Format::kMxfp4 ? "mxfp4" : "nvfp4";
                         });

// Along the gradient the loss rises as fast as the gradient says; cpu, which rounds what enters a
// product, goes nearly the same way.
TEST_P(LoraOn4Bits, TheGradientIsTheSlope) {
  const std::vector<TrainingSequence> batch = samples(16);
  const std::int64_t scored = scored_labels(batch);
  std::vector<std::vector<float>> gradients;
  for (const Platform& platform : two_platforms()) {
    const TinyModel tiny(model_, platform, 2);
    ASSERT_EQ(tiny.model->weights().layers[1].attention.q.weight.codec->format, GetParam());
    const Lora lora = filled(*tiny.model);
    ASSERT_TRUE(attach(lora, *tiny.model));
    const auto of_lora = WeightGradients::create(lora);
    auto differentiator = Differentiator::create(*tiny.model, *of_lora, 64, 0);
    ASSERT_TRUE(differentiator) << differentiator.error().message;
    ASSERT_TRUE(differentiator->add(batch, scored));
    std::vector<float>& gradient = gradients.emplace_back();
    for (const Tensor& d : of_lora->tensors())
      gradient.insert(gradient.end(), d.as<float>(), d.as<float>() + d.elements());
    if (platform.backend != "reference") continue;

    double squares = 0;
    for (const float d : gradient) squares += double{d} * d;
    const double step = 1e-3 / std::sqrt(squares);
    const auto loss_after = [&](double by) {
      std::size_t at = 0;
      for (const LoraModule& module : lora.modules())
        for (const Tensor& values : {module.a, module.b})
          for (std::int64_t i = 0; i < values.elements(); ++i)
            values.as<float>()[i] += static_cast<float>(by * gradient[at++]);
      return differentiator->losses(batch)->main / static_cast<double>(scored);
    };
    const double above = loss_after(step), below = loss_after(-2 * step);
    EXPECT_NEAR((above - below) / (2 * step), squares, 0.01 * squares);
  }
  double product = 0, reference = 0, cpu = 0;
  for (std::size_t i = 0; i < gradients[0].size(); ++i) {
    product += double{gradients[0][i]} * gradients[1][i];
    reference += double{gradients[0][i]} * gradients[0][i];
    cpu += double{gradients[1][i]} * gradients[1][i];
  }
  EXPECT_GT(product / std::sqrt(reference * cpu), 0.99);
}

TEST_P(LoraOn4Bits, StepsLowerTheLossOfBaseAndAdapter) {
  for (const std::string backend : {"cpu", "reference"}) {
    const std::string model = model_ + " --backend " + backend, out = work_.path() + "/" + backend;
    const auto losses = losses_of(
        run_m3("train " + model + " --batches " + batches_file(work_) +
               " --lora attn,dense,shared,experts --rank 4 --lr 0.01 --json --out " + out));
    ASSERT_EQ(losses.size(), 2u);
    EXPECT_LT(losses[1], losses[0]);
    EXPECT_NEAR(losses[0], loss_of(model, work_), 1e-6 * losses[0]);
    EXPECT_LT(loss_of(model + " --lora " + out, work_), losses[1]);
  }
}

}  // namespace
}  // namespace m3
