// What `m3 train` may be told beside its run: options in a file, a plan, patience.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/training_run.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "model/model_writer.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"
#include "train/differentiator.h"
#include "train/trainer.h"
#include "train/training_plan.h"
#include "train/vision_gradient.h"

namespace m3 {
namespace {

using nlohmann::json;

std::string texts(const TemporaryDirectory& work) {
  std::string lines;
  for (int i = 0; i < 6; ++i)
    lines += json{{"text", "sample " + std::to_string(i * i) + " of a few words"}}.dump() + "\n";
  return work.write("a.jsonl", lines);
}

// Losses of the steps, as --json tells them.
std::vector<double> losses(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  std::vector<double> losses;
  std::istringstream lines(outcome.out);
  for (std::string line; std::getline(lines, line);)
    if (const json told = json::parse(line); told.contains("loss")) losses.push_back(told["loss"]);
  return losses;
}

TEST(TrainConfigFile, StandsForTheCommandLine) {
  const TemporaryDirectory work;
  const std::string data = texts(work);
  const std::string file = work.write("run.toml", "model = \"" + nano() + "\"\n" +
                                                      "# a comment\n"
                                                      "data = [\"" +
                                                      data + "\", \"" + data +
                                                      "\"]\n"
                                                      "lora = \"attn,dense\"\nrank = 4\n"
                                                      "lr = 1e-3\nbatch = 3\nsteps = 3\n"
                                                      "json = true\nfull = false\n");
  const std::string typed = "train " + nano() + " --lora attn,dense --rank 4 --batch 3 --steps 3 " +
                            "--json --data " + data + " --data " + data;
  const auto by_file = losses(run_m3("train --config " + file));
  EXPECT_EQ(by_file, losses(run_m3(typed + " --lr 1e-3")));
  // The command line wins, wherever it says so.
  const auto by_both = losses(run_m3("train --lr 1e-2 --config " + file));
  EXPECT_EQ(by_both, losses(run_m3(typed + " --lr 1e-2")));
  EXPECT_NE(by_both, by_file);
}

// What is typed also wins over what does not go with it.
TEST(TrainConfigFile, GivesWayToWhatExcludesIt) {
  const TemporaryDirectory work;
  const std::string file =
      work.write("run.toml", "model = \"" + nano() + "\"\ndata = \"" + texts(work) +
                                 "\"\nfull = true\nepochs = 2\nbatch = 3\njson = true\n");
  EXPECT_EQ(losses(run_m3("train --config " + file)).size(), 4u);
  const auto steps = losses(run_m3("train --steps 1 --lora attn --config " + file));
  EXPECT_EQ(steps, losses(run_m3("train " + nano() + " --data " + work.path() +
                                 "/a.jsonl --batch 3 --steps 1 --lora attn --json")));
  const std::string adapter =
      work.write("adapter.toml", "model = \"" + nano() + "\"\nlora = \"attn\"\n");
  const Outcome full = run_m3("train --full --steps 1 --json --data " + work.path() +
                              "/a.jsonl --config " + adapter);
  EXPECT_EQ(losses(full).size(), 1u);
}

TEST(TrainConfigFile, MayBeginWithAByteOrderMark) {
  const TemporaryDirectory work;
  const std::string file = work.write("c.toml",
                                      "\xef\xbb\xbf"
                                      "full = true\n");
  const Outcome outcome =
      run_m3("train " + nano() + " --data " + texts(work) + " --steps 1 --json --config " + file);
  EXPECT_EQ(losses(outcome).size(), 1u) << outcome.err;
}

TEST(TrainConfigFile, IsRefusedWhereItIsNotUnderstood) {
  const TemporaryDirectory work;
  const auto refused = [&](const std::string& text, const std::string& word) {
    const Outcome outcome =
        run_m3("train --config " + work.write("c.toml", text) + " " + nano() + " --full");
    EXPECT_EQ(outcome.status, 2) << text;
    EXPECT_NE(outcome.err.find(word), std::string::npos) << outcome.err;
  };
  refused("learning_rate = 1\n", "knows no \"learning_rate\"");
  refused("[optimiser]\nlr = 1\n", "knows no \"optimiser.lr\"");
  refused("lr = fast\n", "--lr");
  refused("json = perhaps\n", "json");
  refused("config = \"other.toml\"\n", "knows no \"config\"");
  refused("lr = 1e-3\nbatch = 2\nlr = 1e-4\n", "\"lr\" is there twice");
  refused("lr = 1e-3\nlr = 1e-4\n", "--lr");
  refused("lr = \"high\"\n", "c.toml: --lr: high");
  refused("weight_decay = 0.1\n",
          "c.toml: m3 train knows no \"weight_decay\"; expected \"weight-decay\"");
  refused("steps = 3\nepochs = 2\ndata = \"a\"\n", "--epochs");
  EXPECT_EQ(run_m3("train --config nowhere.toml").status, 2);
}

// A model whose weights cannot be loaded, as their shapes are not those of its config: what is said
// before that was found without them.
class TrainChecks : public testing::Test {
 protected:
  TrainChecks() {
    std::filesystem::copy(nano(), model_);
    auto config = json::parse(*read_text_file(model_ + "/config.json"));
    json& vocab = config["text_config"]["vocab_size"];
    vocab = vocab.get<int>() + 8;
    EXPECT_TRUE(write_text_file(model_ + "/config.json", config.dump()));
  }
  Outcome train(const std::string& options) const {
    return run_m3("train " + model_ + " --data " + data_ + " " + options);
  }

  const TemporaryDirectory work_;
  const std::string model_ = work_.path() + "/model", data_ = texts(work_);
};

TEST_F(TrainChecks, FindMistakesBeforeWeightsAreLoaded) {
  expect_refused(train("--full"), {"embed_tokens"});
  expect_refused(train("--lora attn,router"), {"--lora", "router"});
  expect_refused(train("--lora attn --rank 0"), {"--rank 0"});
  expect_refused(train("--adapter " + nano()), {"is no adapter"});
  expect_refused(train("--full --lr 1e-4 --min-lr 1e-3"), {"--min-lr", "--lr"});
  expect_refused(train("--full --warmup 7 --epochs 2 --batch 3"), {"--warmup 7", "4 steps"});
  expect_refused(train("--full --train mtp"), {"no MTP modules"});
  expect_refused(train("--full --train vision --language-model-only"), {"vision tower"});
  expect_refused(train("--full --train vision"), {"--train vision", "no sample of --data"});
  expect_refused(train("--lora attn --rank 8,foo=4"), {"--rank: expected attn", "foo"});
  expect_refused(train("--lora attn --alpha attn=8,attn=4"), {"--alpha: attn is there twice"});
  expect_refused(train("--full --val 10%"), {"--val 10%", "a share as 0.1"});
  expect_refused(train("--full --val 0.99"), {"--val 0.99", "6 of 6"});
  expect_refused(train("--full --overlong foo"), {"--overlong: foo not in {cut,drop,refuse}"});
  expect_refused(train("--full --out \"\""), {"--out: expected a directory"});
  expect_refused(train("--full --backend cuda"), {"cuda", "absent"});
  expect_refused(train("--full --max-tokens 5"), {"a.jsonl:1", "more than 5"});
  expect_refused(train("--full --sample hello --sample-tokens 4096"), {"--sample", "4096"});
}

TEST_F(TrainChecks, RefuseOptionsWithoutEffect) {
  expect_refused(train("--full --mtp-scale 0.2"), {"--mtp-scale", "--train mtp"});
  expect_refused(train("--lora attn --mtp-scale 0.2"), {"--mtp-scale", "--train mtp"});
  expect_refused(train("--lora attn --train text"), {"--train", "--full"});
  expect_refused(train("--full --decay-steps 1"), {"--decay-steps", "wsd", "cosine"});
  expect_refused(train("--full --schedule constant --min-lr 0"), {"--min-lr", "constant"});
}

// Against the objects themselves, and against numbers counted by hand.
TEST(TrainPlan, CountsWhatARunTakes) {
  const std::string directory = tiny_model_directory("train");
  const TinyModel tiny(directory, {.backend = "cpu"}, 2);
  const Config& config = tiny.model->config();
  const auto checkpoint = Checkpoint::open(directory);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  for (const Keep keep : {Keep::kAll, Keep::kInputs}) {
    const bool indexer = keep == Keep::kAll;
    PlannedTraining training{.parts = {.mtp = true, .indexer = indexer},
                             .keep = keep,
                             .rows = 40,
                             .lengths = {10, 30},
                             .scored = 20};
    const auto plan = plan_training(config, checkpoint->get(), training);
    ASSERT_TRUE(plan) << plan.error().message;
    const auto gradients = WeightGradients::create(*tiny.model, training.parts);
    const auto differentiator =
        Differentiator::create(*tiny.model, *gradients, 40, 0.1f, keep, {.indexer = indexer});
    EXPECT_EQ(plan->memory.activations, differentiator->bytes());
    std::int64_t trained = 0;
    for (const WeightSpec& weight : gradients->weights()) trained += weight.elements();
    EXPECT_EQ(plan->trained, trained);
    EXPECT_EQ(plan->memory.trained, trained * (4 + 2 + 2 + 12));
    EXPECT_EQ(plan->passes, 1);
    EXPECT_EQ(plan->flops.repeated > 0, keep == Keep::kInputs);
  }
}

TEST(TrainPlan, CountsOperations) {
  const std::string directory = tiny_model_directory("train");
  const auto config = load_config(directory);
  const auto table = weight_table(*config, 0);
  const TrainingWork work(*config, *table, {}, std::nullopt);
  // A row: two for each number of a matrix that it meets, and as many again for each derivative.
  double met = 0, indexers = 0, head = 0, heads = 0;
  for (const WeightSpec& weight : *table) {
    if (weight.part != Part::kText || weight.shape.size() < 2) continue;
    if (weight.kind == Kind::kEmbedding || weight.expert >= config->experts_per_token) continue;
    const auto numbers = static_cast<double>(weight.elements());
    (weight.kind == Kind::kHead ? head : weight.kind == Kind::kIndexer ? indexers : met) += numbers;
  }
  heads = static_cast<double>(config->heads * config->head_dim * config->layers);
  const std::int64_t lengths[] = {3};
  const TrainingFlops flops = work.flops(lengths, 2, false);
  EXPECT_EQ(flops.forward, 3 * 2 * (met + indexers) + 2 * 2 * head + 6 * 4 * heads);
  EXPECT_EQ(flops.backward, 3 * 4 * met + 2 * 4 * head + 6 * 10 * heads);
}

// Attention's scores and the indexer's over all pairs, its derivatives, and its two projections.
TEST(TrainPlan, CountsWhatTeachesIndexers) {
  const auto config = load_config(tiny_model_directory("train"));
  const auto table = weight_table(*config, 0);
  const TrainingWork plain(*config, *table, {}, std::nullopt);
  const TrainingWork teaches(*config, *table, {.indexer = true}, std::nullopt);
  double projections = 0;
  for (const WeightSpec& weight : *table)
    if (weight.kind == Kind::kIndexer && weight.shape.size() == 2)
      projections += static_cast<double>(weight.elements());
  const auto layers = static_cast<double>(config->sparse_layer_count());
  const auto attention = static_cast<double>(config->heads * config->head_dim);
  const auto index = static_cast<double>(config->index_heads * config->index_dim);
  ASSERT_GT(layers, 0);
  const std::int64_t lengths[] = {3};
  const TrainingFlops a = plain.flops(lengths, 2, false), b = teaches.flops(lengths, 2, false);
  EXPECT_EQ(a.forward, b.forward);
  EXPECT_EQ(b.backward - a.backward,
            3 * 4 * projections + 6 * layers * (2 * attention + 6 * index));
}

// With MTP modules the head is computed once more for each, and where they alone are trained
// derivatives are by them and by their heads.
TEST(TrainPlan, CountsTheHeadOfEachModule) {
  const auto config = load_config(tiny_model_directory("train"));
  const auto table = weight_table(*config, 2);
  double head = 0, modules = 0;
  for (const WeightSpec& weight : *table) {
    const auto numbers = static_cast<double>(weight.elements());
    if (weight.kind == Kind::kHead) head += numbers;
    if (weight.part != Part::kMtp || weight.shape.size() < 2) continue;
    if (weight.kind == Kind::kIndexer || weight.expert >= config->experts_per_token) continue;
    modules += numbers;
  }
  const auto pair = static_cast<double>(4 * config->heads * config->head_dim);
  const std::int64_t one[] = {1};
  const auto of_label = [&](const TrainedParts& parts) {
    const TrainingWork work(*config, *table, parts, std::nullopt);
    const TrainingFlops with = work.flops(one, 1, false), without = work.flops(one, 0, false);
    if (!parts.text) {
      EXPECT_EQ(without.backward, 4 * modules + 2.5 * 2 * pair);
    }
    return std::pair(with.forward - without.forward, with.backward - without.backward);
  };
  EXPECT_EQ(of_label({.mtp = true}), std::pair(3 * 2 * head, 3 * 4 * head));
  // The head itself is not trained then: derivatives by what it reads.
  EXPECT_EQ(of_label({.text = false, .mtp = true}), std::pair(3 * 2 * head, 2 * 2 * head));
}

TEST(TrainPlan, IsRefusedWhereTheRunWouldBe) {
  const TemporaryDirectory work;
  const std::string data = work.write("a.jsonl", R"({"text": "good"})"
                                                 "\n{\"text\"");
  expect_refused(run_m3("train " + nano() + " --full --plan --data " + data), {"a.jsonl:2: JSON"});
}

TEST(TrainPlan, IsPrintedWithoutData) {
  const TemporaryDirectory work;
  const std::string machine = work.write(
      "machine.json",
      R"({"machine":{"read_gbps":10,"bf16_tflops":0.5},"rows":[{"test":"pp64","tflops":0.4}]})");
  const std::string command = "train " + nano() + " --plan --lora attn --pack 64 ";
  const Outcome text = run_m3(command + "--machine " + machine);
  EXPECT_EQ(text.status, 0) << text.err;
  for (const char* word : {"memory", "activations", "traffic", "time", "tokens/s"})
    EXPECT_NE(text.out.find(word), std::string::npos) << text.out;
  const json plan = json::parse(run_m3(command + "--json --machine " + machine).out);
  const double flops =
      plan["flops"]["forward"].get<double>() + plan["flops"]["backward"].get<double>();
  EXPECT_NEAR(plan["seconds"], flops / 0.4e12 + plan["traffic"].get<double>() / 10e9, 1e-9);
  EXPECT_EQ(plan["tokens"], 64);
  // A config alone says the same but for formats that only files tell.
  work.write("config.json", *read_text_file(nano() + "/config.json"));
  const json planned =
      json::parse(run_m3("train " + work.path() + " --plan --lora attn --pack 64 --json").out);
  EXPECT_EQ(planned["memory"], plan["memory"]);
  expect_refused(run_m3(command + "--machine " + work.write("b.json", "{}")),
                 {"b.json", "m3 bench --json"});
  EXPECT_EQ(run_m3("train " + nano() + " --lora attn").status, 2);  // neither data nor --plan
}

json planned(const std::string& arguments) {
  const Outcome outcome = run_m3("train " + nano() + " --plan --lora attn --json " + arguments);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return json::parse(outcome.out);
}

// All of a file's masks are held, a step has a copy of its own, and what is made of it: two tensors
// of a cache line each.
TEST(TrainPlan, CountsMasksOfPairs) {
  const TemporaryDirectory work;
  const auto inputs = [&](const std::string& mask) {
    const std::string step = R"({"sequences": [{"ids": [1, 2, 3], "labels": [2, 3, -100]}],)"
                             R"("attention_mask": [[)" +
                             mask + "]]}";
    return planned("--batches " + work.write("b.json", R"({"steps": [)" + step + "," + step +
                                                           "]}"))["memory"]["inputs"];
  };
  EXPECT_EQ(inputs("[[true, true, true], [true, true, true], [true, true, true]]"),
            2 * 36 + 36 + 2 * 64);
  EXPECT_EQ(inputs("[[true, false, false], [true, true, false], [true, true, true]]"), 0);
}

// Each layer of the tower keeps six tensors of a picture's rows; a longer clip is cut.
TEST(TrainPlan, CountsTheLargestPicture) {
  const auto config = load_config(nano());
  const VisionConfig& c = *config->vision;
  const auto bytes = [&](const MediaGrid& grid) {
    return VisionGradient::bytes_for(*config, grid);
  };
  EXPECT_GT(bytes({1, 64, 64}), 64 * 64 * c.layers * 6 * c.hidden * 4);
  EXPECT_NEAR(static_cast<double>(bytes({1, 64, 128})),
              2.0 * static_cast<double>(bytes({1, 64, 64})),
              0.05 * static_cast<double>(bytes({1, 64, 128})));
  EXPECT_EQ(bytes({5 * c.segment_frames, 64, 64}), bytes({c.segment_frames, 64, 64}));

  const TemporaryDirectory work;
  std::filesystem::copy(media_file("turned.png"), work.path() + "/a.png");
  const std::string data =
      work.write("a.jsonl", R"({"prompt": "<image>", "completion": "A cat.", "image": "a.png"})");
  const std::string text = work.write("b.jsonl", R"({"prompt": "A", "completion": "cat."})");
  const std::string command = "train " + nano() + " --plan --json --full --data ";
  const auto inputs = [&](const std::string& options) {
    return json::parse(run_m3(command + options).out)["memory"]["inputs"].get<std::int64_t>();
  };
  // Encoding needs the pixels, but of a layer only what the next reads.
  const std::int64_t frozen = inputs(data), trained = inputs(data + " --train vision");
  EXPECT_GT(frozen, 0);
  EXPECT_GT(trained, frozen);
  EXPECT_EQ(inputs(text), 0);

  const TinyModel tiny(tiny_model_directory("train"), {.backend = "cpu"}, 1);
  ThreadPool pool(1);
  const auto trainer =
      Trainer::create(*tiny.model, {.rows = 8, .step_bytes = std::int64_t{1} << 60}, pool);
  ASSERT_FALSE(trainer);
  EXPECT_NE(trainer.error().message.find("masks and pictures"), std::string::npos)
      << trainer.error().message;
}

TEST(TrainPlan, CountsTheLongestSampleOfAValidationFile) {
  const TemporaryDirectory work;
  const std::string text(2000, 'x'), data = texts(work);
  const std::string longer = work.write("long.jsonl", json{{"text", text}}.dump());
  const json with = planned("--data " + data + " --val " + longer);
  EXPECT_EQ(with["memory"]["activations"], planned("--data " + longer)["memory"]["activations"]);
  EXPECT_EQ(with["tokens"], planned("--data " + data)["tokens"]);
  EXPECT_EQ(planned("--data " + data + " --val 0.5")["memory"],
            planned("--data " + data)["memory"]);
}

// Ranks and groups of an adapter are the files'.
TEST(TrainPlan, IsOfAnAdapterToGoOnWith) {
  const TemporaryDirectory work;
  const std::string train = "train " + nano() + " --lora attn,experts --rank 4,experts=2 ";
  const std::string out = work.path() + "/out";
  const Outcome trained = run_m3(train + "--steps 1 --data " + texts(work) + " --out " + out);
  ASSERT_EQ(trained.status, 0) << trained.err;
  const Outcome planned = run_m3("train " + nano() + " --plan --json --adapter " + out);
  ASSERT_EQ(planned.status, 0) << planned.err;
  EXPECT_EQ(json::parse(planned.out), json::parse(run_m3(train + "--plan --json").out));
}

TEST(TrainPlan, RefusesWhatTheRunWould) {
  const TemporaryDirectory work;
  const std::string plan = "train " + nano() + " --plan ";
  expect_refused(run_m3(plan + "--full --train vision --language-model-only"), {"vision tower"});
  expect_refused(run_m3(plan + "--full --train mtp"), {"no MTP modules"});
  expect_refused(run_m3(plan + "--lora attn,router"), {"--lora", "router"});
  expect_refused(run_m3(plan + "--lora attn --backend reference"), {"--plan", "cpu"});
  auto config = json::parse(*read_text_file(tiny_model_directory("nano-mtp") + "/config.json"));
  work.write("config.json", config.dump());
  expect_refused(run_m3("train " + work.path() + " --plan --full --train mtp"),
                 {"config.json alone", "it declares"});
  config.erase("vision_config");
  work.write("config.json", config.dump());
  expect_refused(run_m3("train " + work.path() + " --plan --full --train vision"),
                 {"no vision tower"});
}

// At a rate of nothing no validation is better than the first.
TEST(TrainPatience, EndsARunThatDoesNotImprove) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/out";
  const std::string command = "train " + nano() + " --data " + texts(work) +
                              " --lora attn --batch 2 --steps 30 --lr 0 --min-lr 0 --val 0.34 " +
                              "--val-every 2 --patience 3 --out " + out;
  const Outcome outcome = run_m3(command);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("ends after step 8"), std::string::npos) << outcome.err;
  EXPECT_TRUE(read_text_file(out + "/adapter_config.json"));
  const Outcome again = run_m3(command + " --resume");
  EXPECT_NE(again.err.find("nothing is left to do"), std::string::npos) << again.err;
  EXPECT_EQ(run_m3("train " + nano() + " --full --data a.jsonl --patience 2").status, 2);
}

TEST(TrainPatience, CountsFromTheLowestLossThatIsFinite) {
  const auto lost = [](std::initializer_list<double> losses) {
    std::vector<ValidationLine> lines;
    for (const double loss : losses) lines.push_back({.loss = loss});
    return has_lost_patience(lines, 2);
  };
  EXPECT_FALSE(lost({}));
  EXPECT_FALSE(lost({1, 1}));
  EXPECT_TRUE(lost({1, 1, 2}));
  EXPECT_FALSE(lost({3, 4, 2, 5}));
  EXPECT_FALSE(lost({NAN, 2, 1, 3}));
  EXPECT_TRUE(lost({2, NAN, NAN}));
  EXPECT_FALSE(lost({NAN, NAN, NAN, INFINITY}));
}

TEST(TrainSamples, AreAnsweredAsTheModelDoes) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/out";
  const Outcome outcome = run_m3("train " + nano() + " --data " + texts(work) +
                                 " --lora attn --batch 2 --steps 4 --sample-every 3 --sample hello "
                                 "--sample-tokens 5 --out " +
                                 out);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  std::vector<json> samples;
  std::istringstream log(*read_text_file(out + "/log.jsonl"));
  for (std::string line; std::getline(log, line);)
    if (const json told = json::parse(line); told.contains("sample")) samples.push_back(told);
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[0]["step"], 3);
  EXPECT_EQ(samples[1]["step"], 4);
  const Outcome answer = run_m3("generate " + nano() + " --lora " + out +
                                " --prompt hello --temperature 0 --max-tokens 5");
  EXPECT_EQ(samples[1]["sample"].get<std::string>() + "\n", answer.out);
}

}  // namespace
}  // namespace m3
