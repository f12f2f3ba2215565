// Adapters across folders: trained, saved, loaded, merged.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/logits_run.h"
#include "base/file.h"
#include "model/lora_files.h"
#include "model/merge.h"
#include "model/random_values.h"
#include "tensor/float_matrix.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"
#include "train/trainer.h"

namespace m3 {
namespace {

const Platform kReference{"reference", ""};
constexpr LoraOptions kAll{.groups = {{{4, 8}, {4, 8}, {4, 8}, {2, 6}}}, .seed = 1};

std::vector<WeightSpec> table_of(const Model& model) {
  return *weight_table(model.config(), model.mtp_modules());
}

// `count` sequences of `length` tokens that follow from a seed.
std::vector<TrainingSequence> samples(std::size_t count, std::size_t length) {
  std::vector<TrainingSequence> sequences(count);
  for (std::size_t s = 0; s < count; ++s) {
    for (std::size_t t = 0; t <= length; ++t)
      sequences[s].labels.push_back(static_cast<std::int32_t>(1 + (s * 131 + t * t * 17) % 400));
    sequences[s].ids.assign(sequences[s].labels.begin(), sequences[s].labels.end() - 1);
    sequences[s].labels.erase(sequences[s].labels.begin());
  }
  return sequences;
}

// Of one sequence, all rows.
std::vector<float> logits_of(const Model& model) {
  const auto recorder = run_logits(model, {.sequences = {samples(1, 40)[0].ids}});
  EXPECT_TRUE(recorder) << recorder.error().message;
  for (const NamedTensor& tensor : (*recorder)->tensors())
    if (tensor.name == "logits")
      return {tensor.tensor.as<float>(), tensor.tensor.as<float>() + tensor.tensor.elements()};
  ADD_FAILURE() << "no logits";
  return {};
}

double largest(const std::vector<float>& values) {
  double largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(double{value}));
  return largest;
}

void expect_near(const std::vector<float>& a, const std::vector<float>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  const double allowed = tolerance * std::max(1.0, largest(b));
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], allowed) << i;
}

// A model with an adapter on it.
struct Adapted {
  TinyModel tiny;
  Lora lora;

  explicit Adapted(const std::string& name, const Platform& platform = kReference, int threads = 2,
                   const LoraOptions& options = kAll)
      : tiny(tiny_model_directory(name), platform, threads) {
    auto made = Lora::create(tiny.model->config(), table_of(*tiny.model), options);
    EXPECT_TRUE(made) << made.error().message;
    lora = std::move(*made);
    EXPECT_TRUE(attach(lora, *tiny.model));
  }
  // B of some size, as after training.
  void fill() {
    std::uint64_t key = 7;
    for (const LoraModule& module : lora.modules())
      fill_random(++key, 0, module.b.elements(), {0, 0.05}, module.b.as<float>());
  }
  // Each step's loss, of the same batch, until it is below `until`.
  std::vector<double> train(std::span<const TrainingSequence> batch, int steps, double until = 0,
                            double dropout = 0, Keep keep = Keep::kAll) {
    auto trainer = Trainer::create(*tiny.model,
                                   {.schedule = {.decay = Decay::kConstant, .rate = 1e-2},
                                    .dropout = dropout,
                                    .rows = rows_of(batch),
                                    .keep = keep},
                                   tiny.pool, &lora);
    EXPECT_TRUE(trainer) << trainer.error().message;
    std::vector<double> losses;
    for (int step = 0; step < steps && (losses.empty() || losses.back() >= until); ++step) {
      const auto report = (*trainer)->step(batch);
      EXPECT_TRUE(report) << report.error().message;
      EXPECT_EQ(report->skipped, "");
      losses.push_back(report->loss);
    }
    return losses;
  }
};

std::vector<float> decoded(const Matrix& w) {
  std::vector<float> values(static_cast<std::size_t>(w.rows * w.cols));
  decode_all(w, values.data());
  return values;
}

class LoraOnModel : public testing::TestWithParam<Platform> {};

TEST_P(LoraOnModel, BeginsAsTheBase) {
  for (const std::string name : {"train", "nano-mxfp8"}) {
    const TinyModel base(tiny_model_directory(name), GetParam(), 2);
    const Adapted adapted(name, GetParam());
    // The cpu backend adds in another place what is nothing.
    expect_near(logits_of(*adapted.tiny.model), logits_of(*base.model),
                GetParam().backend == "reference" ? 0 : 1e-5);
  }
}

TEST_P(LoraOnModel, LearnsEightSamplesByHeart) {
  Adapted adapted("train-smooth", GetParam());
  const std::vector<double> losses = adapted.train(samples(8, 8), 60, 0.05);
  EXPECT_LT(losses.back(), 0.05) << losses.size() << " steps";
}

TEST_P(LoraOnModel, HasTheSameBitsForAnyNumberOfThreads) {
  Adapted one("train", GetParam(), 1), three("train", GetParam(), 3);
  EXPECT_EQ(one.train(samples(2, 20), 3), three.train(samples(2, 20), 3));
  EXPECT_EQ(logits_of(*one.tiny.model), logits_of(*three.tiny.model));
}

// Dropped elements follow from seed, step, row and column, also where layers are computed again;
// answers have none of it.
TEST_P(LoraOnModel, DropoutIsOfTrainingAlone) {
  Adapted without("train", GetParam()), one("train", GetParam(), 1), three("train", GetParam(), 3);
  const auto batch = samples(2, 20);
  const std::vector<double> plain = without.train(batch, 3), dropped = one.train(batch, 3, 0, 0.2);
  EXPECT_EQ(dropped, three.train(batch, 3, 0, 0.2, Keep::kInputs));
  EXPECT_NEAR(dropped[0], plain[0], 1e-5);  // B is zero
  EXPECT_NE(dropped[2], plain[2]);
  for (const WeightSpec& spec : table_of(*one.tiny.model)) {
    const LowRank* addend = one.lora.addend_of(spec.name);
    EXPECT_TRUE(addend == nullptr || addend->dropout == nullptr) << spec.name;
  }
  one.lora.set_dropout(0.2f, 1);
  for (const WeightSpec& spec : table_of(*one.tiny.model)) {
    const LowRank* addend = one.lora.addend_of(spec.name);
    const bool drops = addend != nullptr && addend->dropout != nullptr;
    EXPECT_EQ(drops, addend != nullptr && spec.kind != Kind::kExpert) << spec.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Platforms, LoraOnModel, testing::ValuesIn(two_platforms()),
                         [](const auto& platform) { return platform.param.backend; });

// A base of any format stays as it is stored.
TEST(LoraTraining, ChangesTheAdapterAlone) {
  for (const std::string name : {"train", "nano-mxfp8"}) {
    Adapted adapted(name);
    const auto table =
        *weight_table(adapted.tiny.model->config(), adapted.tiny.model->mtp_modules(),
                      &adapted.tiny.model->weights());
    const auto bytes_of = [&] {
      std::vector<std::string> all;
      for (const WeightSpec& spec : table) {
        Tensor values;
        if (Linear* const* linear = std::get_if<Linear*>(&spec.place))
          values = (*linear)->weight.values;
        else if (Tensor* const* tensor = std::get_if<Tensor*>(&spec.place))
          values = **tensor;
        if (values)
          all.emplace_back(static_cast<const char*>(values.data),
                           static_cast<std::size_t>(values.bytes()));
      }
      return all;
    };
    const auto before = bytes_of();
    const std::vector<double> losses = adapted.train(samples(2, 20), 4);
    EXPECT_LT(losses.back(), losses.front()) << name;
    EXPECT_EQ(bytes_of(), before) << name;
    for (const LoraModule& module : adapted.lora.modules())
      EXPECT_GT(largest(decoded(f32_matrix(
                    module.b.reshape({module.b.dim(0) * module.b.dim(1), module.b.dim(2)})))),
                0)
          << module.name;
  }
}

// The derivatives by A and B follow from those by the whole weight: dB = s dW Aᵀ, dA = s Bᵀ dW, the
// latter summed over the weights that read A.
TEST(LoraTraining, DerivativesAreThoseByTheWeightsProjected) {
  Adapted adapted("train-smooth");
  adapted.fill();
  const std::vector<TrainingSequence> batch = samples(2, 16);
  const auto differentiate = [&](const WeightGradients& gradients) {
    auto differentiator = Differentiator::create(*adapted.tiny.model, gradients, 64, 0);
    ASSERT_TRUE(differentiator) << differentiator.error().message;
    ASSERT_TRUE(differentiator->add(batch, scored_labels(batch)));
  };
  const auto whole = WeightGradients::create(*adapted.tiny.model, TrainedParts{});
  const auto low_rank = WeightGradients::create(adapted.lora);
  differentiate(*whole);
  differentiate(*low_rank);
  std::map<std::string, Tensor> by_weight;
  for (std::size_t i = 0; i < whole->weights().size(); ++i)
    by_weight[whole->weights()[i].name] = whole->tensors()[i];

  std::size_t next = 0;
  for (const LoraModule& module : adapted.lora.modules()) {
    const Tensor d_a = low_rank->tensors()[next++], d_b = low_rank->tensors()[next++];
    std::vector<float> wanted_a(static_cast<std::size_t>(d_a.elements()));
    std::vector<float> wanted_b(static_cast<std::size_t>(d_b.elements()));
    const std::int64_t rank = module.size.rank, cols = module.a.dim(2), rows = module.b.dim(1);
    for (const LoraModule::Target& target : module.targets)
      for (std::int64_t n = 0; n < target.rows; ++n)
        for (std::int64_t j = 0; j < rank; ++j)
          for (std::int64_t c = 0; c < cols; ++c) {
            const std::int64_t row = target.expert * rows + target.first_row + n;
            const std::int64_t a_at = (target.expert * rank + j) * cols + c;
            const float d_w = by_weight.at(target.weight).row<float>(n)[c];
            wanted_b[static_cast<std::size_t>(row * rank + j)] +=
                module.scale * d_w * module.a.as<float>()[a_at];
            wanted_a[static_cast<std::size_t>(a_at)] +=
                module.scale * d_w * module.b.as<float>()[row * rank + j];
          }
    const auto values = [](const Tensor& x) {
      return std::vector<float>(x.as<float>(), x.as<float>() + x.elements());
    };
    SCOPED_TRACE(module.name);
    expect_near(values(d_a), wanted_a, 1e-5);
    expect_near(values(d_b), wanted_b, 1e-5);
  }
}

// The backward pass ends where nothing below is trained.
TEST(LoraTraining, OfExpertsAloneEndsAtTheirFirstLayer) {
  LoraOptions experts = kAll;
  for (std::size_t g = 0; g < 3; ++g) experts.groups[g] = {};
  Adapted adapted("train", kReference, 2, experts);
  EXPECT_EQ(WeightGradients::create(adapted.lora)->lowest_layer(), 1);
  EXPECT_EQ(WeightGradients::create(*adapted.tiny.model, TrainedParts{})->lowest_layer(), 0);
  const std::vector<double> losses = adapted.train(samples(2, 20), 3);
  EXPECT_LT(losses.back(), losses.front());
}

TEST(LoraFilesOnModel, GiveTheSameLogits) {
  Adapted adapted("train");
  adapted.fill();
  const std::vector<float> logits = logits_of(*adapted.tiny.model);
  const TinyModel base(tiny_model_directory("train"), kReference, 2);
  EXPECT_NE(logits, logits_of(*base.model));
  for (const LoraNames names : {LoraNames::kTransformers, LoraNames::kReleased}) {
    const TemporaryDirectory work;
    ASSERT_TRUE(save_lora(adapted.lora, {work.path() + "/a", "model", names}));
    const auto loaded = load_lora(work.path() + "/a", table_of(*base.model));
    ASSERT_TRUE(loaded) << loaded.error().message;
    ASSERT_TRUE(attach(*loaded, *base.model));
    EXPECT_EQ(logits_of(*base.model), logits);
  }
}

TEST(Merge, IsBasePlusAdapter) {
  for (const std::string name : {"train", "nano-mxfp8"}) {
    const TemporaryDirectory work;
    Adapted adapted(name);
    adapted.fill();
    const std::string adapter = work.path() + "/adapter", source = tiny_model_directory(name);
    ASSERT_TRUE(save_lora(adapted.lora, {adapter, source}));
    const std::vector<float> logits = logits_of(*adapted.tiny.model);
    double error = 0;
    for (const std::optional<Format> format :
         {std::optional(Format::kF32), std::optional(Format::kBF16), std::optional<Format>()}) {
      const std::string out = work.path() + "/out";
      std::filesystem::remove_all(out);
      const auto report = merge_lora({source, adapter, out, format});
      ASSERT_TRUE(report) << report.error().message;
      const TinyModel merged(out, kReference, 2);
      const std::vector<float> answer = logits_of(*merged.model);
      double difference = 0;
      for (std::size_t i = 0; i < logits.size(); ++i)
        difference = std::max(difference, std::abs(double{answer[i]} - logits[i]));
      if (format == Format::kF32) {
        EXPECT_LE(difference, 1e-5 * largest(logits)) << name;
      }
      // Coarser formats are further away.
      EXPECT_GE(difference, error) << name;
      error = difference;
      const Format q = merged.model->weights().layers[1].attention.q.weight.codec->format;
      EXPECT_EQ(q, format
                       ? *format
                       : adapted.tiny.model->weights().layers[1].attention.q.weight.codec->format);
    }
  }
}

// One part of a product is adapted: the others are written beside it in one format.
TEST(Merge, OfOnePartKeepsProductsWhole) {
  const TemporaryDirectory work;
  const std::string source = tiny_model_directory("nano-mxfp8");
  const TinyModel base(source, kReference, 2);
  const auto table = table_of(*base.model);
  const LoraSites sites = lora_sites(table);
  Lora lora;
  ASSERT_TRUE(lora.add(sites.at("model.language_model.layers.3.self_attn.v_proj"), {2, 4}, 2));
  ASSERT_TRUE(save_lora(lora, {work.path() + "/a", source}));
  const auto report = merge_lora({source, work.path() + "/a", work.path() + "/out"});
  ASSERT_TRUE(report) << report.error().message;
  const TinyModel merged(work.path() + "/out", kReference, 2);
  const LayerWeights& layer = merged.model->weights().layers[3];
  EXPECT_EQ(layer.attention.q.weight.codec->format, Format::kBF16);
  EXPECT_EQ(layer.attention.o.weight.codec->format, Format::kMxfp8);
  EXPECT_EQ(logits_of(*merged.model), logits_of(*base.model));  // B is zero; MXFP8 is exact in BF16
}

// ------------------------------------------------------------------------------- command line

std::string batches_file(const TemporaryDirectory& work) {
  nlohmann::json sequences = nlohmann::json::array();
  for (const TrainingSequence& s : samples(2, 16))
    sequences.push_back({{"ids", s.ids}, {"labels", s.labels}});
  const nlohmann::json step = {{"sequences", sequences}};
  return work.write("batches.json", nlohmann::json{{"steps", {step, step, step}}}.dump());
}

TEST(LoraCommands, TrainSayAnswerAndMerge) {
  const TemporaryDirectory work;
  const std::string train =
      "train " + nano() + " --batches " + batches_file(work) +
      " --lr 0.01 --lora attn,experts --rank 4,experts=2 --alpha attn=8,experts=6";
  const std::string out = work.path() + "/adapter", merged = work.path() + "/merged";
  const Outcome trained = run_m3(train + " --out " + out);
  ASSERT_EQ(trained.status, 0) << trained.err;
  EXPECT_TRUE(trained.out.starts_with("adapted"));
  for (const char* words : {"attention", "routed experts", "step 3/3"})
    EXPECT_NE(trained.out.find(words), std::string::npos) << trained.out;
  const std::string ids = work.write("ids.json", "[1, 2, 3]");
  const std::string ask =
      " --ids-file " + ids + " --max-tokens 6 --temperature 0 --json --ignore-eos";
  const auto answer = [&](const std::string& model) {
    const Outcome outcome = run_m3("generate " + model + ask + " --backend reference");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out)["ids"];
  };
  const auto adapted = answer(nano() + " --lora " + out);
  EXPECT_NE(adapted, answer(nano()));
  const Outcome merge =
      run_m3("merge " + nano() + " --format f32 --lora " + out + " --out " + merged);
  ASSERT_EQ(merge.status, 0) << merge.err;
  EXPECT_EQ(answer(merged), adapted);
  const Outcome chat = run_m3("chat " + nano() + " --max-tokens 2 --lora " + out, "Hi\n");
  EXPECT_EQ(chat.status, 0) << chat.err;

  expect_refused(run_m3("chat " + out, "Hi\n"), {out + " is an adapter", "--lora " + out});
  expect_refused(run_m3(train + " --out " + out), {"is there already"});
  const Outcome other =
      run_m3("generate " + tiny_model_directory("heads") + ask + " --lora " + out);
  expect_refused(other, {"adapter_model.safetensors", "another model"});
  expect_refused(run_m3("merge " + nano() + " --lora " + nano() + " --out " + merged + "2"),
                 {"is no adapter"});
}

// What --rank and --alpha do not say of a group is the default.
TEST(LoraCommands, GroupsWithoutANumberHaveTheDefault) {
  const TemporaryDirectory work;
  const Outcome trained =
      run_m3("train " + nano() + " --batches " + batches_file(work) +
             " --lora attn,dense --rank attn=2 --alpha dense=6 --out " + work.path() + "/out");
  ASSERT_EQ(trained.status, 0) << trained.err;
  const auto config =
      nlohmann::json::parse(*read_text_file(work.path() + "/out/adapter_config.json"));
  EXPECT_EQ(config["r"], 2);
  EXPECT_EQ(config["lora_alpha"], 32);
  const std::string gate_up = "model.language_model.layers.0.mlp.gate_up_proj";
  EXPECT_EQ(config["rank_pattern"][gate_up], 8);
  EXPECT_EQ(config["alpha_pattern"][gate_up], 6);
}

// Experts have no dropout, others beside them do. peft would not load what says otherwise.
TEST(LoraCommands, DropoutLeavesExpertsOut) {
  const TemporaryDirectory work;
  const std::string train = "train " + nano() + " --batches " + batches_file(work) +
                            " --lora attn,experts --rank 2 --lora-dropout 0.25 --out ";
  const auto dropout_of = [&](const std::string& names) {
    const std::string out = work.path() + "/" + names;
    const Outcome trained = run_m3(train + out + " --lora-names " + names);
    EXPECT_EQ(trained.status, 0) << trained.err;
    EXPECT_NE(trained.err.find("experts are adapted without --lora-dropout"), std::string::npos)
        << trained.err;
    return nlohmann::json::parse(*read_text_file(out + "/adapter_config.json"))["lora_dropout"];
  };
  EXPECT_EQ(dropout_of("transformers"), 0);
  EXPECT_EQ(dropout_of("released"), 0.25);
}

TEST(LoraCommands, MistakesAreRefused) {
  const TemporaryDirectory work;
  const std::string train = "train " + nano() + " --batches " + batches_file(work) + " ";
  expect_refused(run_m3(train), {"--full", "--lora"});
  expect_refused(run_m3(train + "--full --precision f32 --lora attn"), {"--full", "--lora"});
  expect_refused(run_m3(train + "--lora attn --precision f32"), {"--precision", "--full"});
  expect_refused(run_m3(train + "--lora attn --train mtp"), {"--train"});
  expect_refused(run_m3(train + "--lora attn,router"), {"router", "experts"});
  expect_refused(run_m3(train + "--lora attn --rank 0"), {"--rank 0"});
  expect_refused(run_m3(train + "--lora attn --rank 2.5"), {"--rank 2.5"});
  expect_refused(run_m3(train + "--lora attn --rank attn=two"), {"--rank attn=two"});
  expect_refused(run_m3(train + "--lora attn --rank experts=2"), {"experts", "--lora does not"});
  EXPECT_EQ(run_m3(train + "--lora attn --lora-names mine").status, 2);
  EXPECT_EQ(run_m3(train + "--lora attn --lora-dropout 1").status, 2);
  EXPECT_EQ(run_m3(train + "--full --precision f32 --rank 3").status, 2);
  expect_refused(run_m3(train + "--lora experts --lora-dropout 0.1"), {"--lora-dropout"});
}

}  // namespace
}  // namespace m3
