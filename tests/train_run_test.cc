// Training runs that are killed, stopped, damaged and continued: what is learnt stays the same, to
// the bit.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <sstream>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kFull = " --full --precision f32";
constexpr const char* kAdapter = " --lora attn,experts --rank 4,experts=2";

// Ten steps on six texts.
std::string data_file(const TemporaryDirectory& work, const std::string& name = "a.jsonl") {
  std::string lines;
  for (int i = 0; i < 6; ++i)
    lines += json{{"text", "sample " + std::to_string(i * i) + " of a few words"}}.dump() + "\n";
  return work.write(name, lines);
}

std::string train(const TemporaryDirectory& work, const std::string& kind) {
  return "train " + nano() + " --data " + data_file(work) + kind +
         " --batch 2 --steps 10 --lr 1e-3 --save-every 1 --val 0.34 --val-every 4 --out ";
}

// The bytes of all weights, the checkpoint's own aside.
std::string result_of(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().string());
  std::ranges::sort(names);
  std::string bytes;
  for (const std::string& name : names) bytes += *read_text_file(name);
  return bytes;
}

std::vector<std::string> checkpoints_of(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory + "/checkpoints"))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

std::vector<json> log_of(const std::string& directory) {
  std::vector<json> lines;
  std::istringstream log(*read_text_file(directory + "/log.jsonl"));
  for (std::string line; std::getline(log, line);) lines.push_back(json::parse(line));
  return lines;
}

// The log of a run that was never stopped, but for what clocks and memory said.
void expect_same_log(const std::string& a, const std::string& b) {
  auto one = log_of(a), other = log_of(b);
  for (auto* lines : {&one, &other})
    for (json& line : *lines)
      for (const char* key : {"tps", "mfu", "mem", "eta", "timestamp"}) line.erase(key);
  EXPECT_EQ(one, other);
}

class TrainRun : public testing::TestWithParam<const char*> {};

// M3_KILLS=100 for longer.
TEST_P(TrainRun, KilledAtAnyMomentItEndsInTheSameBits) {
  const TemporaryDirectory work;
  const std::string command = train(work, GetParam()), whole = work.path() + "/whole";
  const auto timed = [](const auto& body) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  Outcome never_stopped;
  double seconds = timed([&] { never_stopped = run_m3(command + whole); });
  ASSERT_EQ(never_stopped.status, 0) << never_stopped.err;
  const std::string expected = result_of(whole);
  ASSERT_FALSE(expected.empty());

  std::mt19937 random(7);
  std::uniform_real_distribution<double> moment(0.1, 1.1);  // of a run's time
  const char* asked = std::getenv("M3_KILLS");
  const int kills = asked != nullptr ? std::atoi(asked) : 5;
  int killed = 0;
  for (int run = 0; killed < kills; ++run) {
    const std::string out = work.path() + "/out" + std::to_string(run);
    for (int part = 0;; ++part) {
      const bool resumes = fs::exists(out + "/run.json");
      const std::string kill =
          killed < kills ? "timeout -s KILL " + std::to_string(moment(random) * seconds) + " " : "";
      Outcome outcome;
      const double took = timed([&] {
        outcome = run_m3(command + out + (resumes ? " --resume" : "") +
                             (part % 2 == 0 ? " --threads 1" : " --threads 2"),
                         "", kill);
      });
      // The machine may have been busier when the whole run was timed.
      if (outcome.status == 0 && part == 0) seconds = std::min(seconds, took);
      if (outcome.status == 0) break;
      ASSERT_EQ(outcome.status, 137) << outcome.err;
      ++killed;
    }
    ASSERT_EQ(result_of(out), expected) << "after " << killed << " kills";
    expect_same_log(out, whole);
    fs::remove_all(out);
  }
}

TEST_P(TrainRun, StopsBehindAStepWhenAskedTo) {
  const TemporaryDirectory work;
  const std::string command =
      "train " + nano() + " --data " + data_file(work) + GetParam() + " --batch 1 --lr 1e-3 ";
  const std::string out = work.path() + "/out", whole = work.path() + "/whole";
  // Long enough that the signal comes while it computes; nothing is saved until then.
  const std::string many = command + "--steps 4000 --out ";
  const Outcome stopped = run_m3(many + out, "", "timeout --preserve-status -s TERM 3 ");
  EXPECT_EQ(stopped.status, 128 + 15) << stopped.err;
  EXPECT_NE(stopped.err.find("--resume"), std::string::npos) << stopped.err;
  ASSERT_EQ(checkpoints_of(out).size(), 1u);
  const std::string saved = checkpoints_of(out).front();
  EXPECT_EQ(saved, "step-" + std::to_string(log_of(out).size()));
  const Outcome again = run_m3(many + out + " --resume", "", "timeout --preserve-status -s INT 3 ");
  EXPECT_NE(again.err.find("going on after " + saved.substr(0, 4) + " " + saved.substr(5)),
            std::string::npos)
      << again.err;
  EXPECT_NE(checkpoints_of(out).front(), saved);
}

INSTANTIATE_TEST_SUITE_P(Kinds, TrainRun, testing::Values(kFull, kAdapter),
                         [](const auto& kind) { return kind.param == kFull ? "Full" : "Adapter"; });

TEST(TrainRunFolder, HoldsTheNewestAndTheBest) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/out";
  const Outcome trained = run_m3(train(work, kAdapter) + out);
  ASSERT_EQ(trained.status, 0) << trained.err;
  double best = INFINITY;
  std::int64_t best_step = 0;
  std::vector<std::int64_t> steps, validations;
  for (const json& line : log_of(out)) {
    if (!line.contains("val_loss")) {
      steps.push_back(line["step"]);
      for (const char* key : {"epoch", "loss", "grad_norm", "lr", "mem", "tps", "eta",
                              "num_tokens_per_step", "num_label_tokens", "timestamp"})
        EXPECT_TRUE(line.contains(key)) << key;
      continue;
    }
    validations.push_back(line["step"]);
    if (line["val_loss"] >= best) continue;
    best = line["val_loss"];
    best_step = line["step"];
  }
  EXPECT_EQ(steps, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(validations, (std::vector<std::int64_t>{4, 8, 10}));
  std::vector<std::string> expected{"step-10"};
  if (best_step != 10) expected.push_back("step-" + std::to_string(best_step));
  EXPECT_EQ(checkpoints_of(out), expected);
  const json record = json::parse(*read_text_file(out + "/checkpoints/step-10/checkpoint.json"));
  EXPECT_EQ(record["best_validation_loss"], best);
  EXPECT_TRUE(record["validation_loss"].is_number());
  const std::string svg = *read_text_file(out + "/curves.svg");
  EXPECT_TRUE(svg.starts_with("<svg")) << svg.substr(0, 80);
  EXPECT_NE(svg.find("validation"), std::string::npos);

  const Outcome again = run_m3(train(work, kAdapter) + out + " --resume");
  EXPECT_EQ(again.status, 0);
  EXPECT_NE(again.err.find("has ended"), std::string::npos) << again.err;
}

// Weights that grow a hundredfold with every step are soon infinite.
TEST(TrainRunFolder, ARunThatDivergesEndsWithAnError) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/out", data = data_file(work);
  const std::string command = "train " + nano() + " --data " + data + kFull +
                              " --batch 2 --steps 200 --lr 10 --weight-decay 10 --warmup 0 "
                              "--schedule constant --save-every 7 --out " +
                              out;
  const Outcome outcome = run_m3(command);
  expect_refused(outcome, {"not finite", "10 steps in a row"});
  const std::vector<json> log = log_of(out);
  const std::size_t steps = log.size();
  ASSERT_GT(steps, 10u);
  ASSERT_LT(steps, 200u);
  for (std::size_t i = 0; i < steps; ++i) EXPECT_EQ(log[i].contains("skipped"), i + 10 >= steps);
  EXPECT_FALSE(fs::exists(out + "/config.json"));
  // The last checkpoint is one of those skipped steps: they count on.
  const std::int64_t saved = static_cast<std::int64_t>(steps - 1) / 7 * 7;
  EXPECT_EQ(checkpoints_of(out), std::vector{"step-" + std::to_string(saved)});
  expect_refused(run_m3(command + " --resume"), {"10 steps in a row"});
  EXPECT_EQ(log_of(out).size(), steps);
}

// The file that holds the model's embeddings, and where in it a token's begin.
std::pair<std::string, std::int64_t> embedding_of(const std::string& model, std::int64_t token) {
  for (const auto& entry : fs::directory_iterator(model)) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto file = SafetensorsFile::open(entry.path().string());
    const TensorInfo* info = (*file)->find("language_model.model.embed_tokens.weight");
    if (info == nullptr) continue;
    const Tensor table = (*file)->tensor(*info);
    const auto* begin = static_cast<const std::byte*>(table.data);
    return {entry.path().string(),
            begin - (*file)->mapping().bytes().data() + token * table.row_elements() * 2};
  }
  ADD_FAILURE() << model << " has no embeddings";
  return {};
}

// Its text has a token whose embedding is none.
TEST(TrainRunFolder, NamesTheSampleWhoseLossIsNotFinite) {
  const TemporaryDirectory work;
  const std::string model = work.path() + "/model", data = data_file(work);
  fs::copy(nano(), model);
  std::vector<std::vector<std::int64_t>> ids;
  std::istringstream told(run_m3("tokenize " + model + " --jsonl -", *read_text_file(data)).out);
  for (std::string line; std::getline(told, line);) ids.push_back(json::parse(line)["ids"]);
  ASSERT_EQ(ids.size(), 6u);
  const auto is_alone = [&](std::int64_t id) {
    return std::ranges::count_if(
               ids, [&](const auto& of) { return std::ranges::find(of, id) != of.end(); }) == 1;
  };
  std::size_t sample = 0;
  while (sample < 6 && std::ranges::none_of(ids[sample], is_alone)) ++sample;
  ASSERT_LT(sample, 6u);
  const auto [file, place] = embedding_of(model, *std::ranges::find_if(ids[sample], is_alone));
  const std::uint16_t nan = 0x7fc0;
  std::fstream shard(file, std::ios::in | std::ios::out | std::ios::binary);
  shard.seekp(place);
  shard.write(reinterpret_cast<const char*>(&nan), 2);
  shard.close();
  const Outcome outcome =
      run_m3("train " + model + " --data " + data + kFull + " --batch 6 --steps 1 --json");
  expect_refused(outcome, {"the loss and the gradient of",
                           fmt::format("are not finite, first at {}:{};", data, sample + 1)});
}

TEST(TrainRunFolder, GoesOnWithDataUnderAnotherName) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/out", data = data_file(work);
  const auto run = [&](const std::string& file, const std::string& more) {
    return run_m3("train " + nano() + kAdapter + " --batch 2 --steps 2 --out " + out + " --data " +
                  file + more);
  };
  ASSERT_EQ(run(data, "").status, 0);
  fs::rename(data, work.path() + "/moved.jsonl");
  const Outcome again = run(work.path() + "/moved.jsonl", " --resume");
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_NE(again.err.find("nothing is left to do"), std::string::npos) << again.err;
}

// At a rate of a tenth two texts are learnt by heart, and others are not.
TEST(TrainRunFolder, WritesTheLastStepOrTheBestAsAsked) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/out", data = data_file(work);
  const std::string command = "train " + nano() + " --data " + data + kFull +
                              " --batch 2 --steps 40 --lr 1e-2 --warmup 0 --val 0.34 --val-every 4 "
                              "--out " +
                              out;
  const Outcome last = run_m3(command);
  ASSERT_EQ(last.status, 0) << last.err;
  std::int64_t best = 0;
  double lowest = INFINITY, end = 0;
  for (const json& line : log_of(out)) {
    if (!line.contains("val_loss")) continue;
    end = line["val_loss"];
    if (end < lowest) best = line["step"];
    lowest = std::min(lowest, end);
  }
  ASSERT_LT(lowest, end);
  const std::string step = "after step " + std::to_string(best);
  EXPECT_NE(last.err.find(step + ": the result is of the last step"), std::string::npos)
      << last.err;

  const auto result_loss = [&] {
    const Outcome of = run_m3("train " + out + " --data " + data + kFull +
                              " --batch 2 --steps 1 --lr 0 --min-lr 0 --val 0.34 --val-every 1 "
                              "--json");
    EXPECT_EQ(of.status, 0) << of.err;
    return json::parse(of.out.substr(of.out.find('\n') + 1))["val_loss"].get<double>();
  };
  EXPECT_NEAR(result_loss(), end, 1e-2 * end);
  const Outcome chosen = run_m3(command + " --resume --result best");
  EXPECT_NE(chosen.err.find(step + ": the result is of that step"), std::string::npos)
      << chosen.err;
  EXPECT_NEAR(result_loss(), lowest, 1e-2 * lowest);
  ASSERT_EQ(run_m3(command + " --resume --result last").status, 0);
  EXPECT_NEAR(result_loss(), end, 1e-2 * end);
  expect_refused(
      run_m3("train " + nano() + " --data " + data + kFull + " --result best --out " + out + "2"),
      {"--result best", "--val"});
}

TEST(TrainRunFolder, RefusesWhatIsAnotherRun) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/out", command = train(work, kAdapter);
  expect_refused(run_m3(command + out + " --resume"), {"no run", out});
  EXPECT_FALSE(fs::exists(out));
  ASSERT_EQ(run_m3(command + out).status, 0);
  expect_refused(run_m3(command + out), {out, "--resume"});
  const auto resumed = [&](std::string from, const std::string& to) {
    std::string changed = command + out + " --resume";
    changed.replace(changed.find(from), from.size(), to);
    return run_m3(changed);
  };
  expect_refused(resumed("--lr 1e-3", "--lr 2e-3"), {"another", "--lr was 0.001", "0.002"});
  expect_refused(resumed("--steps 10", "--steps 11"),
                 {"number of steps (--steps, --epochs) was 10 and is now 11"});
  expect_refused(resumed("--batch 2", "--batch 3"), {"--batch was 2"});
  expect_refused(resumed("--val 0.34", "--val 0.5"), {"--val was 0.34"});
  expect_refused(resumed("experts=2", "experts=1"), {"--rank was", "experts=2"});
  expect_refused(resumed(" --val 0.34", " --seed 3 --val 0.34"), {"--seed was 0 and is now 3"});
  expect_refused(resumed(" --val 0.34", " --moments bf16 --val 0.34"),
                 {"--moments was f32 and is now bf16"});
  expect_refused(resumed(kAdapter, kFull), {"another"});
  expect_refused(resumed(nano(), tiny_model_directory("nano-mtp")), {"the model's", "was"});
  const std::string other = work.write("a.jsonl", R"({"text": "something else"})"
                                                  "\n{\"text\": \"b c d\"}\n{\"text\": \"e f\"}");
  expect_refused(run_m3("train " + nano() + " --data " + other + kAdapter +
                        " --batch 2 --steps 10 --lr 1e-3 --val 0.34 --out " + out + " --resume"),
                 {"--data was", "and is now"});
  // What changes no number may differ.
  EXPECT_EQ(resumed("--save-every 1", "--save-every 5 --threads 1 --json").status, 1);  // data
  data_file(work);
  EXPECT_EQ(resumed("--save-every 1",
                    "--save-every 5 --threads 1 --json --recompute --patience 9 --sample hello "
                    "--router-metrics brief --lora-names released")
                .status,
            0);
  EXPECT_EQ(
      run_m3("train " + nano() + " --data " + data_file(work) + kAdapter + " --resume").status, 2);
}

void damage(const std::string& path, std::int64_t place) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(place);
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(place);
  file.put(byte);
}

// A folder of a run that was killed with some of its checkpoints written; the name of one that is
// not the run's last.
std::string killed_run(const std::string& command, const std::string& out) {
  for (double seconds = 0.05;; seconds *= 1.2) {
    fs::remove_all(out);
    const Outcome outcome = run_m3(command + out, "", fmt::format("timeout -s KILL {} ", seconds));
    if (outcome.status == 0) {
      ADD_FAILURE() << "it was not killed";
      return "step-10";
    }
    if (!fs::exists(out + "/checkpoints")) continue;
    for (const std::string& name : checkpoints_of(out))
      if (!name.ends_with(".part") && name != "step-10") return name;
  }
}

TEST(TrainRunFolder, ADamagedCheckpointIsNotUsed) {
  const TemporaryDirectory work;
  const std::string command = train(work, kAdapter), whole = work.path() + "/whole";
  ASSERT_EQ(run_m3(command + whole).status, 0);
  const auto newest = [](const std::string& out) { return out + "/checkpoints/step-10"; };
  // As the run was before it ended, with an older checkpoint beside the newest.
  const std::string before = work.path() + "/before", killed = work.path() + "/killed";
  const std::string older = killed_run(command, killed);
  fs::copy(whole, before, fs::copy_options::recursive);
  fs::remove(before + "/adapter_config.json");
  fs::remove(before + "/adapter_model.safetensors");
  for (const std::string& name : checkpoints_of(before))
    if (name != "step-10") fs::remove_all(before + "/checkpoints/" + name);
  fs::copy(before, work.path() + "/alone", fs::copy_options::recursive);
  fs::copy(killed + "/checkpoints/" + older, before + "/checkpoints/" + older,
           fs::copy_options::recursive);

  const auto state_bytes =
      static_cast<std::int64_t>(fs::file_size(newest(before) + "/state.safetensors"));
  std::mt19937_64 random(3);
  std::int64_t places[] = {9, state_bytes - 1, static_cast<std::int64_t>(random() % state_bytes)};
  for (const std::int64_t place : places) {
    const std::string out = work.path() + "/out" + std::to_string(place);
    fs::copy(before, out, fs::copy_options::recursive);
    damage(newest(out) + "/state.safetensors", place);
    const Outcome outcome = run_m3(command + out + " --resume");
    EXPECT_NE(outcome.err.find("step-10/state.safetensors"), std::string::npos) << outcome.err;
    EXPECT_EQ(result_of(out), result_of(whole)) << outcome.err;
  }
  damage(newest(work.path() + "/alone") + "/state.safetensors", places[2]);
  expect_refused(run_m3(command + work.path() + "/alone --resume"), {"no checkpoint", "is whole"});
  // One that is cut short, one whose record lies, one whose record is gone.
  for (const char* how : {"cut", "record", "gone"}) {
    const std::string out = work.path() + "/" + how, name = how;
    fs::copy(before, out, fs::copy_options::recursive);
    const std::string record = newest(out) + "/checkpoint.json";
    if (name == "cut") fs::resize_file(newest(out) + "/state.safetensors", 1000);
    if (name == "gone") fs::remove(record);
    if (name == "record") {
      std::string text = *read_text_file(record);
      const std::size_t at = text.find("\"updates\": 10");
      ASSERT_NE(at, text.npos);
      text.replace(at, 13, "\"updates\": 11");
      std::ofstream(record) << text;
    }
    const Outcome outcome = run_m3(command + out + " --resume");
    EXPECT_NE(outcome.err.find("step-10"), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(result_of(out), result_of(whole));
  }
  // A checkpoint of another run.
  const std::string foreign = work.path() + "/foreign";
  std::string other = command;
  other.replace(other.find("1e-3"), 4, "5e-4");
  ASSERT_EQ(run_m3(other + foreign).status, 0);
  fs::remove_all(newest(before));
  fs::copy(newest(foreign), newest(before), fs::copy_options::recursive);
  expect_refused(run_m3(command + before + " --resume"), {"--lr was 0.0005 and is now 0.001"});
}

// No file may have more than a few kilobytes, as no checkpoint of all weights has.
TEST(TrainRunFolder, AFullDiskLosesNothing) {
  const TemporaryDirectory work;
  const std::string command = train(work, kAdapter), whole = work.path() + "/whole";
  const std::string out = work.path() + "/out";
  ASSERT_EQ(run_m3(command + whole).status, 0);
  const auto state = fs::file_size(whole + "/checkpoints/step-10/state.safetensors");
  const std::string limit = "ulimit -f " + std::to_string(state / 512 / 2) + "; ";
  const Outcome full = run_m3(command + out, "", limit);
  EXPECT_EQ(full.status, 1);
  for (const char* words : {"step 9 is not saved", "cannot write", "step-10"})
    EXPECT_NE(full.err.find(words), std::string::npos) << full.err;
  EXPECT_TRUE(checkpoints_of(out).empty());
  EXPECT_EQ(log_of(out).size(), 13u);
  const Outcome mended = run_m3(command + out + " --resume");
  ASSERT_EQ(mended.status, 0) << mended.err;
  EXPECT_EQ(result_of(out), result_of(whole));
  // The end alone is missing, and the newest checkpoint is what it was.
  fs::remove(out + "/adapter_config.json");
  const std::string kept = *read_text_file(out + "/checkpoints/step-10/state.safetensors");
  EXPECT_NE(run_m3(command + out + " --resume", "", "ulimit -f 2; ").status, 0);
  EXPECT_EQ(*read_text_file(out + "/checkpoints/step-10/state.safetensors"), kept);
  EXPECT_FALSE(fs::exists(out + "/adapter_config.json"));
  ASSERT_EQ(run_m3(command + out + " --resume").status, 0);
  EXPECT_EQ(result_of(out), result_of(whole));
}

// The same of the weights themselves.
TEST(TrainRunFolder, AFullDiskLosesNoModel) {
  const TemporaryDirectory work;
  const std::string command = train(work, kFull), whole = work.path() + "/whole";
  const std::string out = work.path() + "/out", state = "/checkpoints/step-10/state.safetensors";
  ASSERT_EQ(run_m3(command + whole).status, 0);
  fs::copy(whole, out, fs::copy_options::recursive);
  const auto is_final = [](const fs::path& path) {
    return path.extension() == ".safetensors" || path.filename() == "config.json";
  };
  std::uintmax_t largest = 0;
  std::vector<fs::path> finals;
  for (const auto& entry : fs::directory_iterator(out)) {
    if (!is_final(entry.path())) continue;
    largest = std::max(largest, fs::file_size(entry.path()));
    finals.push_back(entry.path());
  }
  ASSERT_GE(finals.size(), 2u);
  for (const fs::path& path : finals) fs::remove(path);
  const std::string limit = "ulimit -f " + std::to_string(largest / 512 / 2) + "; ";
  const Outcome full = run_m3(command + out + " --resume", "", limit);
  EXPECT_EQ(full.status, 1);
  EXPECT_NE(full.err.find("cannot write"), std::string::npos) << full.err;
  for (const auto& entry : fs::directory_iterator(out))
    EXPECT_FALSE(is_final(entry.path())) << entry.path();
  EXPECT_EQ(*read_text_file(out + state), *read_text_file(whole + state));
  const Outcome mended = run_m3(command + out + " --resume");
  ASSERT_EQ(mended.status, 0) << mended.err;
  EXPECT_EQ(result_of(out), result_of(whole));
  EXPECT_TRUE(fs::exists(out + "/config.json"));
}

// The first number of a weight in bfloat16 becomes one that is none.
void make_nan(const std::string& model, const std::string& name) {
  for (const auto& entry : fs::directory_iterator(model)) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto file = SafetensorsFile::open(entry.path().string());
    ASSERT_TRUE(file) << file.error().message;
    const TensorInfo* info = (*file)->find(name);
    if (info == nullptr) continue;
    const auto* at = static_cast<const std::byte*>((*file)->tensor(*info).data);
    std::fstream out(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(at - (*file)->mapping().bytes().data());
    out.write("\xc0\x7f", 2);
    return;
  }
  FAIL() << "no " << name << " in " << model;
}

TEST(TrainRunFolder, TellsOfStepsThatWereSkipped) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/out", model = work.path() + "/model";
  fs::copy(nano(), model);
  make_nan(model, "language_model.model.norm.weight");
  const Outcome trained = run_m3("train " + model + " --data " + data_file(work) + kAdapter +
                                 " --batch 2 --steps 2 --out " + out);
  expect_refused(trained, {"2 steps in a row", "weights may be damaged"});
  EXPECT_NE(trained.out.find("skipped: the loss and the gradient of"), std::string::npos)
      << trained.out;
  const auto lines = log_of(out);
  ASSERT_EQ(lines.size(), 2u);
  for (const json& line : lines) {
    EXPECT_TRUE(line["loss"].is_null());
    EXPECT_NE(line["skipped"].get<std::string>().find("are not finite"), std::string::npos) << line;
  }
}

// ------------------------------------------------------------------ TensorBoard's event files

std::uint32_t masked_crc(std::string_view bytes) {
  std::uint32_t crc = 0xffffffff;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82f63b78 : crc >> 1;
  }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8;
}

// Fields of a protocol buffer, in order: number, and the value as it stands.
struct Field {
  std::uint64_t number;
  std::uint64_t integer;
  std::string_view bytes;
};

std::uint64_t take_varint(std::string_view& bytes) {
  std::uint64_t number = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.at(0));
    bytes.remove_prefix(1);
    number |= std::uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return number;
  }
}

template <typename Number>
Number take(std::string_view& bytes) {
  Number number{};
  std::memcpy(&number, bytes.substr(0, sizeof number).data(), sizeof number);
  bytes.remove_prefix(sizeof number);
  return number;
}

std::vector<Field> fields_of(std::string_view bytes) {
  std::vector<Field> fields;
  while (!bytes.empty()) {
    const std::uint64_t key = take_varint(bytes);
    Field field{key >> 3, 0, {}};
    switch (key & 7) {
      case 0:
        field.integer = take_varint(bytes);
        break;
      case 1:
        field.integer = take<std::uint64_t>(bytes);
        break;
      case 2: {
        const std::uint64_t size = take_varint(bytes);
        field.bytes = bytes.substr(0, size);
        bytes.remove_prefix(size);
        break;
      }
      case 5:
        field.integer = take<std::uint32_t>(bytes);
        break;
      default:
        ADD_FAILURE() << "wire type " << (key & 7);
        return fields;
    }
    fields.push_back(field);
  }
  return fields;
}

struct Scalars {
  std::vector<std::string> others;                           // version, session
  std::map<std::string, std::map<std::uint64_t, float>> of;  // tag, step
};

void read_events(const std::string& path, Scalars& scalars) {
  const std::string file = *read_text_file(path);
  for (std::string_view rest = file; !rest.empty();) {
    const std::string_view length = rest.substr(0, 8);
    const auto bytes = take<std::uint64_t>(rest);
    ASSERT_EQ(take<std::uint32_t>(rest), masked_crc(length));
    const std::string_view event = rest.substr(0, bytes);
    rest.remove_prefix(bytes);
    ASSERT_EQ(take<std::uint32_t>(rest), masked_crc(event));
    std::uint64_t step = 0;
    for (const Field& field : fields_of(event)) {
      if (field.number == 2) step = field.integer;
      if (field.number == 3) scalars.others.emplace_back(field.bytes);
      if (field.number == 7) scalars.others.push_back("from " + std::to_string(step));
      if (field.number != 5) continue;
      for (const Field& value : fields_of(field.bytes)) {
        const std::vector<Field> parts = fields_of(value.bytes);
        ASSERT_EQ(parts.size(), 2u);
        scalars.of[std::string(parts[0].bytes)][step] =
            std::bit_cast<float>(static_cast<std::uint32_t>(parts[1].integer));
      }
    }
  }
}

TEST(TrainRunFolder, TensorBoardReadsWhatTheLogSays) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/out";
  ASSERT_EQ(run_m3(train(work, kAdapter) + out).status, 0);
  Scalars scalars;
  for (const auto& entry : fs::directory_iterator(out))
    if (entry.path().filename().string().starts_with("events.out.tfevents."))
      read_events(entry.path().string(), scalars);
  EXPECT_EQ(scalars.others, (std::vector<std::string>{"brain.Event:2", "from 1"}));
  std::size_t lines = 0;
  for (const json& line : log_of(out)) {
    const std::uint64_t step = line["step"];
    ++lines;
    if (line.contains("val_loss")) {
      EXPECT_EQ(scalars.of["val_loss"][step], line["val_loss"].get<float>());
      continue;
    }
    EXPECT_EQ(scalars.of["loss"][step], line["loss"].get<float>());
    EXPECT_EQ(scalars.of["grad_norm"][step], line["grad_norm"].get<float>());
    EXPECT_EQ(scalars.of["lr"][step], line["lr"].get<float>());
    EXPECT_EQ(scalars.of["tokens_per_second"][step], line["tps"].get<float>());
    EXPECT_EQ(scalars.of["mem"][step], line["mem"].get<float>());
    EXPECT_EQ(scalars.of["mfu"].contains(step), line.contains("mfu"));
    EXPECT_EQ(scalars.of["mfu"][step], line.value("mfu", 0.0f));
  }
  EXPECT_EQ(scalars.of["loss"].size() + scalars.of["val_loss"].size(), lines);
}

}  // namespace
}  // namespace m3
