// Data files from the command line: what is read, what is refused, and that a model learns it.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const std::string kExchange = R"({"prompt": "Hi", "completion": "Hello."})";

Outcome check(const std::string& arguments) {
  return run_m3("data check --model " + nano() + " " + arguments);
}

// Of data in which nothing is refused.
json checked(const std::string& arguments) {
  const Outcome outcome = check("--json " + arguments);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return json::parse(outcome.out);
}

// Its one complaint.
std::string refused(const std::string& arguments) {
  const Outcome outcome = check("--json " + arguments);
  EXPECT_EQ(outcome.status, 1);
  const json list = json::parse(outcome.out)["refused"];
  EXPECT_EQ(list.size(), 1u) << list;
  return list[0]["place"].get<std::string>() + ": " + list[0]["message"].get<std::string>();
}

TEST(DataCheck, ShowsASampleAndWhatAllComeTo) {
  const TemporaryDirectory work;
  const std::string lines = work.write("a.jsonl", kExchange + "\n\n" + R"({"text": "A text."})");
  const std::string array = work.write("b.json", "[\n" + kExchange + ",\n" + kExchange + "]");
  const std::string text = work.write("c.txt", "One text,\nof two lines.\n");
  const json all = checked(lines + " " + array + " " + text + " --sample 4 --pack 1000");
  EXPECT_EQ(all["samples"], 5);
  EXPECT_EQ(all["answers"], 3);
  EXPECT_EQ(all["sample"]["place"], array + ":3");
  EXPECT_EQ(all["packs"]["packs"], 1);
  EXPECT_NEAR(all["packs"]["filled"].get<double>(), all["tokens"].get<double>() / 1000, 1e-9);
  const json ids = all["sample"]["ids"], labels = all["sample"]["labels"];
  ASSERT_EQ(ids.size(), labels.size());
  for (const json& range : all["sample"]["scored"])
    for (std::size_t i = range[0]; i < range[1]; ++i) EXPECT_EQ(labels[i - 1], ids[i]);

  const Outcome shown = check(lines);
  EXPECT_NE(shown.out.find("]~b]ai\n⟦</mm:think>Hello.[e~[⟧"), std::string::npos) << shown.out;
  EXPECT_NE(shown.out.find("scored"), std::string::npos);
  EXPECT_EQ(shown.out.find('\x1b'), std::string::npos);
}

TEST(DataCheck, ShowsNoControlCharactersToTheTerminal) {
  const TemporaryDirectory work;
  const Outcome outcome =
      check(work.write("a.jsonl", R"({"text": "a \u001b[31m \u009b b \u0000"})"));
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("\\x1b[31m \\xc2\\x9b b \\x00"), std::string::npos) << outcome.out;
}

TEST(DataCheck, TakesThinkingModeFromTheRecordFirst) {
  const TemporaryDirectory work;
  const std::string file =
      work.write("a.jsonl", R"({"prompt": "a", "completion": "b", "thinking_mode": "disabled"})");
  EXPECT_TRUE(checked(file + " --thinking-mode enabled")["remarks"].empty());
  const std::string plain = work.write("b.jsonl", kExchange);
  EXPECT_EQ(checked(plain + " --thinking-mode enabled")["remarks"].size(), 1u);
  EXPECT_TRUE(checked(plain)["remarks"].empty());
}

TEST(DataCheck, RemarksOnCarelessData) {
  const TemporaryDirectory work;
  const std::string file = work.write(
      "a.jsonl", kExchange + "\n" + R"({"prompt": "a", "completion": "", "systen": "b"})");
  const json remarks = checked(file + " " + work.path() + "/./a.jsonl")["remarks"];
  ASSERT_EQ(remarks.size(), 5u) << remarks;
  EXPECT_EQ(remarks[0]["place"], work.path() + "/./a.jsonl");
  EXPECT_NE(remarks[0]["message"].get<std::string>().find("given twice"), std::string::npos);
  EXPECT_EQ(remarks[1]["place"], file + ":2");
  EXPECT_NE(remarks[1]["message"].get<std::string>().find("\"systen\""), std::string::npos);
  EXPECT_NE(check(file).out.find("remark    " + file + ":2: 1 of 1 answers have nothing"),
            std::string::npos);
}

TEST(DataCheck, LeavesNothingOutWithoutAWord) {
  const TemporaryDirectory work;
  std::string words;
  for (int i = 0; i < 450; ++i) words += "word ";
  const std::string text = work.write("long.txt", words);
  const std::string chat = work.write(
      "long.jsonl", json{{"prompt", "Hi"}, {"completion", words}}.dump() + "\n" +
                        json{{"prompt", words}, {"completion", "Hi"}}.dump() + "\n" + kExchange);
  const std::string both = chat + " " + text + " --max-tokens 400 ";
  const Outcome refuse = check(both);
  EXPECT_EQ(refuse.status, 1);
  EXPECT_NE(refuse.out.find("refused   " + chat + ":1: has "), std::string::npos) << refuse.out;
  EXPECT_NE(refuse.out.find("more than 400; --overlong cut or drop"), std::string::npos);
  const json whole = checked(both.substr(0, both.find(" --")));
  const json drop = checked(both + "--overlong drop");
  EXPECT_EQ(drop["samples"], 1);
  EXPECT_EQ(drop["dropped"].size(), 3u);
  const json cut = checked(both + "--overlong cut");
  EXPECT_EQ(cut["longest"], 400);
  EXPECT_EQ(cut["dropped"].size(), 1u);  // nothing that is scored is left of it
  EXPECT_EQ(cut["dropped"][0]["place"], chat + ":2");
  EXPECT_EQ(cut["cut"].size(), 2u);
  const json pieces = checked(text + " --max-tokens 100 --overlong cut");
  EXPECT_GT(pieces["samples"], 2);
  EXPECT_EQ(pieces["scored"], checked(text)["scored"]);
  EXPECT_GT(whole["tokens"], cut["tokens"]);
}

// m3 train would not begin either.
TEST(DataCheck, FailsWhereEverySampleIsDropped) {
  const TemporaryDirectory work;
  const Outcome outcome = check(work.write("a.jsonl", kExchange + "\n" + kExchange) +
                                " --max-tokens 9 --overlong drop --json");
  expect_refused(outcome, {"no sample is left", "all 2 are too long"});
  EXPECT_EQ(json::parse(outcome.out)["dropped"].size(), 2u);
}

TEST(DataCheck, ReadsPicturesBesideTheFile) {
  const TemporaryDirectory work;
  fs::create_directory(work.path() + "/pictures");
  fs::copy(media_file("turned.png"), work.path() + "/pictures/a.png");
  const std::string file = work.write(
      "a.jsonl",
      R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "pictures/a.png"}}, {"type": "text", "text": "What?"}]}, {"role": "assistant", "content": "A cat."}]}
{"conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cat."}], "image": "pictures/a.png"}
)");
  const json all = checked(file);
  EXPECT_EQ(all["media"], 2);
  EXPECT_EQ(all["sample"]["ids"], checked(file + " --sample 2")["sample"]["ids"]);
  EXPECT_NE(check(file).out.find("]<]image[>[×"), std::string::npos);
}

// What editors on Windows write.
TEST(DataCheck, ReadsByteOrderMarksAndWindowsLines) {
  const TemporaryDirectory work;
  const std::string mark = "\xef\xbb\xbf";
  for (const char* name : {"a.jsonl", "a.json", "a.JSONL", "a.Json"})
    for (const std::string& text : {mark + kExchange + "\r\n" + kExchange + "\r\n",
                                    mark + "[" + kExchange + ",\r\n" + kExchange + "]"}) {
      const json all = checked(work.write(name, text) + " --sample 2");
      EXPECT_EQ(all["samples"], 2);
      EXPECT_EQ(all["sample"]["place"], work.path() + "/" + name + ":2");
    }
  const json text = checked(work.write("a.TXT", mark + "one\r\ntwo\rthree\r\n"));
  EXPECT_EQ(text["sample"]["text"], "one\ntwo\rthree\n");
}

TEST(DataCheck, SaysWhatItCannotReadAsText) {
  const TemporaryDirectory work;
  const auto expect = [&](const std::string& name, const std::string& bytes,
                          const std::string& words) {
    const std::string said = refused(work.write(name, bytes));
    EXPECT_NE(said.find(words), std::string::npos) << said;
  };
  using namespace std::string_literals;
  expect("a.jsonl", "\x1f\x8b\x08\0"s, "is compressed (gzip), expected a text: unpack it");
  expect("a.jsonl.gz", "\x1f\x8b\x08\0"s, "is compressed (gzip)");
  expect("a.txt", "\x28\xb5\x2f\xfd"s, "is compressed (zstd)");
  expect("a.zip", "PK\3\4"s, "is compressed (zip)");
  expect("b.jsonl", "\xff\xfe{\0}\0"s, "is UTF-16, expected UTF-8");
  expect("b.txt", "\xfe\xff\0a\0b"s, "is UTF-16, expected UTF-8");
  expect("b.json", "[\0]\0"s, "is UTF-16, expected UTF-8");
}

TEST(DataCheck, SaysWhatIsNotSeenOfALongClip) {
  const TemporaryDirectory work;
  fs::copy(media_file("long.mkv"), work.path() + "/long.mkv");
  const std::string file = work.write(
      "a.jsonl", R"({"prompt": "<video>What?", "completion": "Nothing.", "video": "long.mkv"})");
  const json remarks = checked(file)["remarks"];
  ASSERT_EQ(remarks.size(), 1u) << remarks;
  EXPECT_EQ(remarks[0]["place"], file + ":1");
  const std::string words = "only the first 300 s of 302 s are seen";
  EXPECT_NE(remarks[0]["message"].get<std::string>().find(words), std::string::npos) << remarks;
  EXPECT_NE(check(file).out.find(words), std::string::npos);
}

TEST(DataCheck, SaysWhatIsWrongAndWhere) {
  const TemporaryDirectory work;
  const auto of = [&](const std::string& lines) {
    return refused(work.write("a.jsonl", kExchange + "\n" + lines + "\n"));
  };
  const std::string place = work.path() + "/a.jsonl:2: ";
  const auto expect = [&](const std::string& line, const std::string& words) {
    const std::string said = of(line);
    EXPECT_TRUE(said.starts_with(place)) << said;
    EXPECT_NE(said.find(words), std::string::npos) << said;
    EXPECT_LT(said.size(), 500u);
  };
  expect(R"({"messages": [)", "JSON ends at byte");
  expect(R"({"messages": [{"role": "wizard", "content": "x"}]})", "\"wizard\"");
  expect(R"({"messages": [{"role": "user", "content": "x"}]})", "no token is scored");
  expect(R"({"prompt": "<image>", "completion": "x", "image": "gone.png"})", "gone.png");
  expect(R"({"prompt": "<image>", "completion": "x", "image": "https://a/b.png"})", "https://a/b");
  expect(R"({"prompt": "<image>", "completion": "x", "image": "data:image/png;base64,AAAA"})", "");
  expect(R"({"rows": [1]})", "found \"rows\"");
  expect(std::string("{\"text\": \"\xff\xfe\"}"), "UTF-8");
  expect(std::string("\0", 1), "JSON");
  expect(std::string(100000, '['), "nest");
  expect("{\"prompt\": \"a\", \"completion\": \"b\", \"weight\": 1e999}", "");
  expect("{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"weight\": " +
             std::string(50, '9') + "}]}",
         "\"weight\" must be 0 or 1");
  EXPECT_NE(refused(work.write("c.json", "[" + kExchange + ",\n" + kExchange)).find("c.json:2"),
            std::string::npos);
  EXPECT_NE(refused(work.write("d.jsonl", "")).find("holds no records"), std::string::npos);
  EXPECT_NE(refused(work.write("d.json", "[]")).find("holds no records"), std::string::npos);
  EXPECT_NE(refused(work.write("d.txt", "")).find("is empty"), std::string::npos);
  EXPECT_NE(refused(work.write("e.txt", "ok\nno\xff")).find("line 2 is not UTF-8"),
            std::string::npos);
  EXPECT_NE(refused(work.write("f.parquet", "PAR1")).find(".jsonl, .json or .txt"),
            std::string::npos);
  EXPECT_NE(refused(work.path()).find("is a directory"), std::string::npos);
  EXPECT_NE(refused("/nowhere.jsonl").find("does not exist"), std::string::npos);
  expect_refused(check(work.write("g.jsonl", kExchange) + " --sample 2"), {"--sample 2", "1"});
  expect_refused(check(work.path() + "/g.jsonl --max-tokens 100000"), {"--max-tokens", "4096"});
  EXPECT_EQ(check("--overlong bend " + work.path() + "/g.jsonl").status, 2);
}

TEST(DataCheck, TellsFilesFromRecords) {
  const TemporaryDirectory work;
  const std::string empty = work.write("a.jsonl", ""), bad = work.write("b.jsonl", "{}\n{}\n");
  expect_refused(check(empty), {"1 file cannot be trained on", "a.jsonl: holds no records"});
  expect_refused(check(work.path()), {"1 file cannot be trained on", "is a directory"});
  expect_refused(check(empty + " /nowhere.jsonl " + bad), {"2 files and 2 records cannot be"});
}

TEST(DataCheck, SaysOnceThatAFileIsCutOff) {
  const TemporaryDirectory work;
  const std::string said = refused(work.write("a.json", "[" + kExchange + ",\n{\"prompt\": \"a"));
  EXPECT_EQ(said, work.path() +
                      "/a.json:2: the file ends inside this record, before the ] that "
                      "closes the list: is it whole?");
}

// All of many, with a count of those that are not shown.
TEST(DataCheck, ListsManyProblemsShortly) {
  const TemporaryDirectory work;
  std::string lines;
  for (int i = 0; i < 1000; ++i) lines += "{\"no\": 1}\n";
  const Outcome outcome = check(work.write("a.jsonl", lines));
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.out.find("and 980 more"), std::string::npos) << outcome.out;
  expect_refused(outcome, {"1000 records", "a.jsonl:1"});
}

// ------------------------------------------------------------------------------ training

const std::string kTrain = " --full --precision f32 --json ";

std::vector<json> steps_of(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  std::vector<json> steps;
  std::istringstream lines(outcome.out);
  for (std::string line; std::getline(lines, line);) steps.push_back(json::parse(line));
  return steps;
}

TEST(TrainOnData, SeesEverySampleInEachEpochAndLearnsThem) {
  const TemporaryDirectory work;
  std::string lines;
  for (int i = 1; i <= 5; ++i)
    lines +=
        json{{"text", std::string(static_cast<std::size_t>(i * 2), 'a') + " b c d"}}.dump() + "\n";
  const std::string data = work.write("a.jsonl", lines);
  const std::int64_t scored = checked(data)["scored"];
  const std::string command = "train " + nano() + " --data " + data + kTrain;
  const auto steps =
      steps_of(run_m3(command + "--batch 2 --epochs 4 --lr 2e-3 --warmup 0 --seed 5"));
  ASSERT_EQ(steps.size(), 12u);
  for (std::size_t epoch = 0; epoch < 4; ++epoch) {
    std::int64_t seen = 0;
    for (std::size_t i = 0; i < 3; ++i)
      seen += steps[3 * epoch + i]["num_label_tokens"].get<std::int64_t>();
    EXPECT_EQ(seen, scored);
  }
  EXPECT_LT(steps[11]["loss"], 0.7 * steps[0]["loss"].get<double>());
  // The seed alone decides, and so does nothing about packs.
  const std::string short_run = command + "--batch 2 --steps 2 --lr 2e-3 --warmup 0 --seed ";
  const auto again = steps_of(run_m3(short_run + "5 --threads 1"));
  ASSERT_EQ(again.size(), 2u);
  EXPECT_EQ(again[0]["loss"], steps[0]["loss"]);
  const auto packed = steps_of(run_m3(short_run + "5 --pack 64"));
  EXPECT_NEAR(packed[0]["loss"].get<double>(), steps[0]["loss"].get<double>(), 1e-3);
  // Fewer rows than a sample has would not do.
  const Outcome raised = run_m3(short_run + "5 --pack 2");
  EXPECT_EQ(steps_of(raised)[0]["loss"], steps[0]["loss"]);
  for (const Outcome& told : {raised, check(data + " --pack 2")})
    EXPECT_NE(told.err.find("note: --pack 2 is less than"), std::string::npos) << told.err;
  EXPECT_EQ(run_m3(short_run + "5").err.find("--pack"), std::string::npos);
}

// One file after another, in every epoch, whatever the seed.
TEST(TrainOnData, TakesSamplesInTheGivenOrder) {
  const TemporaryDirectory work;
  std::string files;
  for (const auto& [name, lengths] :
       {std::pair<std::string, std::vector<std::size_t>>{"b.jsonl", {9, 3, 7}}, {"a.jsonl", {5}}}) {
    std::string lines;
    for (const std::size_t length : lengths)
      lines += json{{"text", std::string(length, '7')}}.dump() + "\n";
    files += " " + work.write(name, lines);
  }
  const auto steps = steps_of(run_m3("train " + nano() + " --data" + files + kTrain +
                                     "--order given --batch 1 --epochs 2 --seed 5"));
  std::vector<int> tokens;
  for (const json& step : steps) tokens.push_back(step["num_tokens_per_step"]);
  EXPECT_EQ(tokens, (std::vector<int>{9, 3, 7, 5, 9, 3, 7, 5}));
}

// What is learnt of data is what is learnt of the same ids and labels given as they are.
TEST(TrainOnData, IsTrainingOnWhatTheCheckShows) {
  const TemporaryDirectory work;
  const std::string data = work.write("a.jsonl", R"({"text": "one two three"})");
  const json sample = checked(data)["sample"];
  const json batches = {
      {"steps", {{{"sequences", {{{"ids", sample["ids"]}, {"labels", sample["labels"]}}}}}}}};
  const std::string given = work.write("batches.json", batches.dump());
  const auto from_data = steps_of(run_m3("train " + nano() + " --data " + data + kTrain));
  const auto from_ids = steps_of(run_m3("train " + nano() + " --batches " + given + kTrain));
  ASSERT_EQ(from_data.size(), 1u);
  EXPECT_EQ(from_data[0]["loss"], from_ids[0]["loss"]);
  EXPECT_EQ(from_data[0]["grad_norm"], from_ids[0]["grad_norm"]);
}

TEST(TrainOnData, LooksAtPictures) {
  const TemporaryDirectory work;
  fs::copy(media_file("turned.png"), work.path() + "/a.png");
  const std::string data =
      work.write("a.jsonl", R"({"prompt": "<image>", "completion": "A cat.", "image": "a.png"})");
  // On the reference: elsewhere activations are rounded where weights are as they were stored.
  const std::string command = "train " + nano() + " --backend reference --data " + data + kTrain;
  const auto text = steps_of(run_m3(command));
  const auto vision = steps_of(run_m3(command + "--train vision --epochs 2 --lr 1e-3"));
  const double loss = text[0]["loss"];
  EXPECT_NEAR(vision[0]["loss"].get<double>(), loss, 1e-3);
  EXPECT_GT(vision[0]["grad_norm"], 0);
  EXPECT_NE(vision[1]["loss"], vision[0]["loss"]);
  expect_refused(run_m3(command + "--language-model-only"), {data + ":1", "no vision tower"});
}

// Of the same size, under the same name.
TEST(TrainOnData, AnotherPictureIsAnotherRun) {
  const TemporaryDirectory work;
  const std::string picture = work.path() + "/a.png", out = work.path() + "/out";
  fs::copy(media_file("turned.png"), picture);
  const std::string data =
      work.write("a.jsonl", R"({"prompt": "<image>", "completion": "A cat.", "image": "a.png"})");
  const std::string command = "train " + nano() + " --lora attn --data " + data + " --out " + out;
  EXPECT_EQ(run_m3(command + " --steps 1").status, 0);
  fs::copy(media_file("turned.jpg"), picture, fs::copy_options::overwrite_existing);
  expect_refused(run_m3(command + " --steps 1 --resume"), {"what is learnt of --data was"});
}

// The loss of a file that is also what is trained on is the loss of the step behind it.
TEST(TrainOnData, ValidatesOnWhatItDoesNotTrainOn) {
  const TemporaryDirectory work;
  const std::string data = work.write("a.jsonl", R"({"text": "one two three four"})");
  const std::string command = "train " + nano() + kTrain + "--lr 1e-3 --warmup 0 --data ";
  const auto lines = steps_of(
      run_m3(command + data + " --steps 3 --val-every 1 --schedule constant --val " + data));
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_EQ(lines[1]["step"], 1);
  EXPECT_NEAR(lines[1]["val_loss"].get<double>(), lines[2]["loss"].get<double>(), 1e-6);
  EXPECT_NEAR(lines[3]["val_loss"].get<double>(), lines[4]["loss"].get<double>(), 1e-6);

  std::string many;
  for (int i = 0; i < 8; ++i) many += json{{"text", "sample " + std::to_string(i)}}.dump() + "\n";
  const std::string some = work.write("b.jsonl", many);
  const std::int64_t all = checked(some)["scored"];
  const auto held = steps_of(run_m3(command + some + " --val 0.25"));
  ASSERT_EQ(held.size(), 2u);
  EXPECT_EQ(held[0]["num_label_tokens"].get<std::int64_t>() +
                held[1]["num_label_tokens"].get<std::int64_t>(),
            all);
  EXPECT_EQ(held[1]["num_label_tokens"].get<std::int64_t>() * 4, all);
  for (const char* share : {"0", "1", "1.5", "-0.5", "0.001", "nan"})
    expect_refused(run_m3(command + some + " --val " + share), {"--val", "share"});
  expect_refused(run_m3(command + some + " --val nowhere.jsonl"), {"nowhere.jsonl"});
}

TEST(TrainOnData, LearnsOfCutSamplesWhatTheCheckCounts) {
  const TemporaryDirectory work;
  const auto words = [](int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += "word ";
    return text;
  };
  const std::string data =
      work.write("a.jsonl", json{{"prompt", "Hi"}, {"completion", words(60)}}.dump() + "\n" +
                                json{{"text", words(400)}}.dump() + "\n" + kExchange);
  const std::string cut = data + " --max-tokens 340 --overlong cut";
  const json told = checked(cut);
  EXPECT_EQ(told["cut"].size(), 2u);
  EXPECT_EQ(told["samples"], 4);
  EXPECT_LT(told["scored"], checked(data)["scored"]);
  std::int64_t learnt = 0;
  for (const json& step : steps_of(run_m3("train " + nano() + kTrain + "--batch 2 --data " + cut)))
    learnt += step["num_label_tokens"].get<std::int64_t>();
  EXPECT_EQ(learnt, told["scored"]);
}

TEST(TrainOnData, RefusesBeforeItTrains) {
  const TemporaryDirectory work;
  const std::string bad = work.write("a.jsonl", kExchange + "\n{}\n[]\n");
  const std::string train = "train " + nano() + kTrain;
  expect_refused(run_m3(train + "--data " + bad), {bad + ":2", "1 more", "m3 data check"});
  const std::string good = work.write("b.jsonl", kExchange);
  expect_refused(run_m3(train + "--max-tokens 9 --data " + good), {good + ":1", "more than 9"});
  expect_refused(run_m3(train + "--overlong drop --max-tokens 9 --data " + good), {"too long"});
  EXPECT_EQ(run_m3(train).status, 2);
  EXPECT_EQ(run_m3(train + "--data " + good + " --batches " + good).status, 2);
  EXPECT_EQ(run_m3(train + "--data " + good + " --epochs 2 --steps 3").status, 2);
  EXPECT_EQ(run_m3(train + "--data " + good + " --batch 0").status, 2);
  EXPECT_EQ(run_m3(train + "--batches " + good + " --batch 2").status, 2);
}

}  // namespace
}  // namespace m3
