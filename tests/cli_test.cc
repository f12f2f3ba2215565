// The command line: what each command promises. (Bad input: bad_input_test.cc.)
#include <gtest/gtest.h>

#include <cstdlib>
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

TEST(Usage, HelpTeachesAndMistakesAreStatusTwo) {
  const Outcome help = run_m3("--help");
  EXPECT_EQ(help.status, 0);
  for (const char* command :
       {"chat", "generate", "logits", "inspect", "synth", "pack", "bench", "tokenize"})
    EXPECT_NE(help.out.find(command), std::string::npos) << command;
  EXPECT_EQ(run_m3("generate --help").status, 0);
  EXPECT_EQ(run_m3("").status, 2);
  expect_refused(run_m3("genrate " + nano()), {"genrate"});
  EXPECT_EQ(run_m3("generate " + nano() + " --max-tokns 3 --prompt x").status, 2);
  EXPECT_EQ(run_m3("generate " + nano()).status, 2);
  EXPECT_EQ(run_m3("--version").status, 0);
}

TEST(Generate, AnswersFromIdsAsJson) {
  const TemporaryDirectory work;
  const std::string ids = work.write("ids.json", "[1, 2, 3]");
  const Outcome outcome =
      run_m3("generate " + nano() + " --ids-file " + ids +
             " --max-tokens 5 --temperature 0 --ignore-eos --json --logprobs 2");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json answer = json::parse(outcome.out);
  EXPECT_EQ(answer["ids"].size(), 5u);
  EXPECT_EQ(answer["finish_reason"], "length");
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 5);
  EXPECT_EQ(answer["logprobs"][0]["top"].size(), 2u);
  EXPECT_EQ(answer["logprobs"][0]["top"][0]["id"], answer["ids"][0]);
  EXPECT_TRUE(answer["timings"].contains("predicted_per_second"));
}

TEST(Generate, ASeedGivesTheSameTextAndStopStringsEndIt) {
  const std::string base = "generate " + nano() + " --prompt 'Hello there' --max-tokens 24 --json";
  const json one = json::parse(run_m3(base + " --seed 7").out);
  const json same = json::parse(run_m3(base + " --seed 7 --threads 1").out);
  const json other = json::parse(run_m3(base + " --seed 8").out);
  EXPECT_EQ(one["ids"], same["ids"]);
  EXPECT_NE(one["ids"], other["ids"]);
  const std::string text = one["text"];
  ASSERT_GT(text.size(), 4u);
  const std::string stop = text.substr(text.size() / 2, 1);
  const json cut = json::parse(run_m3(base + " --seed 7 --stop '" + stop + "'").out);
  if (stop != "'" && stop[0] > ' ') {
    EXPECT_EQ(cut["text"], text.substr(0, text.find(stop)));
    EXPECT_EQ(cut["finish_reason"], "stop");
  }
}

TEST(Generate, MessagesWithToolsAndThinking) {
  const TemporaryDirectory work;
  const std::string file = work.write(
      "messages.json",
      R"({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
          "thinking": {"type": "disabled"},
          "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]})");
  const Outcome outcome =
      run_m3("generate " + nano() + " --messages " + file + " --max-tokens 2 --json");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_GT(json::parse(outcome.out)["usage"]["prompt_tokens"], 100);
}

TEST(Generate, DraftsChangeNoToken) {
  const TemporaryDirectory work;
  const std::string mtp = tiny_model_directory("nano-mtp");
  const std::string ids = work.write("ids.json", "[1, 2, 3, 1, 2, 3, 1, 2]");
  const std::string options = " --ids-file " + ids + " --max-tokens 40 --seed 3 --top-k 2 --json ";
  for (const std::string& model : {nano(), mtp}) {
    const json plain = json::parse(run_m3("generate " + model + options).out);
    EXPECT_FALSE(plain.contains("drafts"));
    const std::string with = "generate " + model + options + "--draft-tokens 3 --speculative ";
    const json ngram = json::parse(run_m3(with + "ngram").out);
    EXPECT_EQ(ngram["ids"], plain["ids"]);
    EXPECT_EQ(ngram["drafts"]["drafted"].size(), 3u);
    EXPECT_EQ(ngram["drafts"]["accepted"].size(), 3u);
    if (model != mtp) {
      const std::string draft = work.path() + "/draft";
      ASSERT_EQ(run_m3("synth --preset eagle3-nano --out " + draft).status, 0);
      EXPECT_EQ(json::parse(run_m3(with + "eagle3 --draft-model " + draft).out)["ids"],
                plain["ids"]);
      continue;
    }
    const json drafted = json::parse(run_m3(with + "mtp").out);
    EXPECT_EQ(drafted["ids"], plain["ids"]);
    // The same modules from a directory of their own draft the same.
    const std::string apart = work.path() + "/modules";
    ASSERT_EQ(run_m3("synth --config " + model + "/config.json --seed 17 --mtp-only --out " + apart)
                  .status,
              0);
    EXPECT_EQ(json::parse(run_m3(with + "mtp --draft-model " + apart).out)["ids"], plain["ids"]);
  }
}

TEST(Generate, AStopStringInsideDraftsEndsTheAnswer) {
  const std::string base =
      "generate " + nano() + " --prompt 'Hello there' --max-tokens 60 --temperature 0 --json";
  const std::string text = json::parse(run_m3(base).out)["text"];
  for (std::size_t i = text.size() / 3; i < text.size(); i += text.size() / 3) {
    if (text[i] <= ' ' || text[i] == '\'' || text[i] > '~') continue;
    const std::string stop = " --stop '" + text.substr(i, 1) + "'";
    const json plain = json::parse(run_m3(base + stop).out);
    const json drafted = json::parse(run_m3(base + stop + " --speculative ngram").out);
    for (const char* field : {"ids", "text", "finish_reason", "usage"})
      EXPECT_EQ(drafted[field], plain[field]) << field;
  }
}

TEST(Generate, DraftersThatCannotBeAreRefused) {
  const std::string base = "generate " + nano() + " --prompt x --max-tokens 1 --speculative ";
  EXPECT_EQ(run_m3(base + "psychic").status, 2);
  EXPECT_EQ(run_m3(base + "ngram --draft-tokens 33").status, 2);
  EXPECT_EQ(run_m3(base + "ngram --draft-tokens 0").status, 2);
  expect_refused(run_m3(base + "mtp"), {"MTP"});
  expect_refused(run_m3(base + "ngram --draft-model " + nano()), {"--draft-model", "ngram"});
  expect_refused(run_m3(base + "mtp --draft-model /nowhere"), {"/nowhere"});
  expect_refused(run_m3(base + "eagle3"), {"--draft-model"});
  expect_refused(run_m3(base + "eagle3 --draft-model /nowhere"), {"/nowhere"});
  // A model is no draft model.
  expect_refused(run_m3(base + "eagle3 --draft-model " + nano()),
                 {"config.json", "no EAGLE3 draft model"});
  const std::string without = "generate " + nano() + " --prompt x ";
  expect_refused(run_m3(without + "--draft-tokens 3"), {"--draft-tokens", "--speculative"});
  expect_refused(run_m3(without + "--draft-model " + nano()), {"--draft-model", "--speculative"});
}

TEST(Pack, ChangesTheStartAndNotTheAnswer) {
  const TemporaryDirectory work;
  const std::string model = work.path() + "/model";
  fs::copy(tiny_model_directory("nano-mxfp8"), model);
  const std::string generate =
      "generate " + model + " --prompt Hello --max-tokens 12 --seed 3 --json --isa avx2";
  const std::string pack = "pack " + model + " --isa avx2";
  const Outcome before = run_m3(generate);
  ASSERT_EQ(before.status, 0) << before.err;
  expect_refused(run_m3(pack, "", "ulimit -f 3000; "), {"m3-panels-64x2.pack"});
  EXPECT_FALSE(fs::exists(model + "/m3-panels-64x2.pack"));
  const Outcome written = run_m3(pack);
  ASSERT_EQ(written.status, 0) << written.err;
  EXPECT_NE(written.out.find("written in"), std::string::npos) << written.out;
  EXPECT_NE(run_m3(pack).out.find("up to date"), std::string::npos);
  const Outcome after = run_m3(generate);
  EXPECT_EQ(after.err, "");
  EXPECT_EQ(json::parse(after.out)["ids"], json::parse(before.out)["ids"]);
  fs::resize_file(model + "/m3-panels-64x2.pack", 3'000'000);
  const Outcome damaged = run_m3(generate);
  EXPECT_NE(damaged.err.find("written anew"), std::string::npos) << damaged.err;
  EXPECT_EQ(json::parse(damaged.out)["ids"], json::parse(before.out)["ids"]);
  EXPECT_EQ(run_m3(generate).err, "");
  EXPECT_NE(run_m3("pack " + model + " --backend reference").out.find("nothing to pack"),
            std::string::npos);
}

TEST(Bench, DecodesWithoutAndWithDrafts) {
  for (const std::string kind : {"replay", "wrong"}) {
    const Outcome outcome =
        run_m3("bench " + nano() + " --tg 24 --batch 2 --draft-tokens 3 --json" +
               " --speculative " + kind);
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json row = json::parse(outcome.out)["rows"][0];
    EXPECT_EQ(row["plain"]["tokens_per_step"], 1);
    EXPECT_GE(row["drafted"]["tokens_per_step"], 1);
    EXPECT_GT(row["drafted"]["experts_per_step"], 4);
    const auto& drafts = row["drafts"];
    for (int place = 0; place < 3; ++place)
      EXPECT_EQ(drafts["accepted"][place], kind == "replay" ? drafts["drafted"][place] : json(0));
  }
}

// Drafts of modules, or looked up, are measured on greedy answers: what --tg allows of each.
TEST(Bench, AnswersPromptsWithDrafts) {
  const TemporaryDirectory work;
  const std::string prompts = work.write("p.jsonl",
                                         R"({"messages": [{"role": "user", "content": "Hi"}]}

{"messages": [{"role": "user", "content": "a b c a b c"}], "thinking_mode": "disabled"}
)");
  json config = json::parse(read_text_file(nano() + "/config.json").value());
  config["text_config"]["num_mtp_modules"] = 1;
  const std::string model = work.path() + "/model";
  const Outcome written =
      run_m3("synth --config " + work.write("config.json", config.dump()) + " --out " + model);
  ASSERT_EQ(written.status, 0) << written.err;
  fs::copy(nano() + "/tokenizer.json", model + "/tokenizer.json");
  for (const std::string& options :
       {" mtp --prompts " + prompts, " ngram --prompts " + prompts, std::string(" mtp")}) {
    const Outcome outcome =
        run_m3("bench " + model + " --tg 12 --draft-tokens 2 --json --speculative" + options);
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const json row = json::parse(outcome.out)["rows"][0];
    EXPECT_EQ(row["plain"]["tokens_per_step"], 1);
    EXPECT_GE(row["drafted"]["tokens_per_step"], 1);
    EXPECT_EQ(row["drafts"]["drafted"].size(), 2u);
  }
  const std::string bench = "bench " + model + " --speculative mtp --prompts ";
  expect_refused(run_m3(bench + work.write("bad.jsonl", "{}\n[1]\n")), {"bad.jsonl:2", "object"});
  expect_refused(run_m3(bench + work.write("none.jsonl", "\n")), {"none.jsonl", "no conversation"});
  expect_refused(run_m3(bench + work.write("empty.jsonl", "{}\n")), {"empty.jsonl", "messages"});
  expect_refused(run_m3(bench + prompts + " --depth 64"), {"--depth"});
  expect_refused(run_m3("bench " + model + " --speculative wrong --prompts " + prompts),
                 {"--prompts", "mtp or ngram"});
}

TEST(Bench, RefusesWhatItWouldNotMeasure) {
  const std::string bench = "bench " + nano();
  expect_refused(run_m3(bench + " --speculative wrong --tg 0"), {"--tg"});
  expect_refused(run_m3(bench + " --speculative wrong --vision"), {"--speculative", "--vision"});
  expect_refused(run_m3(bench + " --pp 0 --tg 0"), {"nothing to measure"});
  expect_refused(run_m3(bench + " --json --csv"), {"--json", "--csv"});
  expect_refused(run_m3(bench + " --speculative wrong --plot x.svg"), {"--speculative", "--plot"});
  expect_refused(run_m3(bench + " --plot /nowhere/x.svg"), {"/nowhere"});
  expect_refused(run_m3(bench + " /nowhere"), {"/nowhere"});
  // Before the machine is measured, of which the first line tells.
  for (const char* options :
       {" --depth 5000", " --depth 5000 --speculative wrong", " --vision --language-model-only",
        " --batch 1000000000000 --tg 64"}) {
    const Outcome outcome = run_m3(bench + options);
    EXPECT_EQ(outcome.status, 1) << options << outcome.err;
    EXPECT_EQ(outcome.out, "") << options;
  }
}

TEST(Chat, TalksFromAPipeAndSaysThatTheWeightsAreRandom) {
  const Outcome outcome = run_m3("chat " + nano() + " --max-tokens 4 --seed 1",
                                 "Hello\nAgain\n/clear\n/exit\nnot read\n");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("random"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.out.find("> Again"), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.out.find("not read"), std::string::npos) << outcome.out;
}

TEST(Generate, ShowsMediaInTheOrderOfTheCommandLine) {
  const std::string image = " --image " + media_file("turned.png");
  const std::string video = " --video " + media_file("turned.mp4");
  const auto ids = [](const std::string& media) {
    const Outcome outcome = run_m3("generate " + nano() + " --prompt x" + media +
                                   " --max-tokens 8 --temperature 0 --json");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return json::parse(outcome.out)["ids"];
  };
  EXPECT_EQ(ids(image + video), ids(image + video));
  EXPECT_NE(ids(image + video), ids(video + image));
  const json parts = {{{"type", "video"}, {"video", media_file("turned.mp4")}},
                      {{"type", "image"}, {"image", media_file("turned.png")}},
                      {{"type", "text"}, {"text", "x"}}};
  const TemporaryDirectory work;
  const std::string messages =
      work.write("m.json", json::array({{{"role", "user"}, {"content", parts}}}).dump());
  const Outcome outcome = run_m3("generate " + nano() + " --messages " + messages +
                                 " --max-tokens 8 --temperature 0 --json");
  EXPECT_EQ(json::parse(outcome.out)["ids"], ids(video + image));
}

TEST(Generate, PartsOfMessagesSayHowTheyAreSeen) {
  const TemporaryDirectory work;
  const auto ask = [&](const json& part, const std::string& options = "") {
    const json text = {{"type", "text"}, {"text", "x"}};
    const json messages = {{{"role", "user"}, {"content", json::array({text, part})}}};
    return run_m3("generate " + nano() + " --max-tokens 1 --json" + options + " --messages " +
                  work.write("m.json", messages.dump()));
  };
  const auto tokens = [&](const json& part, const std::string& options = "") {
    const Outcome outcome = ask(part, options);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.status == 0 ? json::parse(outcome.out)["usage"]["prompt_tokens"].get<int>() : 0;
  };
  const auto picture = [](const json& settings) {
    json part = {{"type", "image_url"}, {"image_url", {{"url", media_file("turned.png")}}}};
    part["image_url"].update(settings);
    return part;
  };
  const auto clip = [](const json& settings) {
    json part = {{"type", "video_url"}, {"video_url", media_file("turned.mp4")}};
    part.update(settings);
    return part;
  };
  const int plain = tokens(picture(json::object()));
  EXPECT_EQ(tokens(picture({{"detail", "auto"}})), plain);
  EXPECT_NE(tokens(picture({{"max_long_side_pixel", 168}})), plain);
  EXPECT_EQ(tokens(picture({{"max_long_side_pixel", 504}})), tokens(picture({{"detail", "low"}})));
  EXPECT_EQ(tokens(picture(json::object()), " --max-long-side 504"),
            tokens(picture({{"detail", "low"}})));
  const json many = {{"fps", 1000}}, two = {{"fps", 1000}, {"max_frames", 2}};
  EXPECT_GT(tokens(clip(many)), tokens(clip(two)));
  EXPECT_GE(tokens(clip(two)), tokens(clip({{"fps", 1000}, {"max_frames", 1}})));

  const std::string place = "m.json: messages[0].content[1]: ";
  expect_refused(ask(picture({{"detail", "tiny"}})), {place, "detail", "tiny", "low", "high"});
  for (const int pixels : {0, -1, 100, 251, 3612})
    expect_refused(ask(picture({{"max_long_side_pixel", pixels}})), {place, "max_long_side_pixel"});
  expect_refused(ask(clip({{"fps", "x"}})), {place, "fps", "a string"});
  expect_refused(ask(clip({{"max_frames", 0}})), {place, "max_frames"});
  expect_refused(ask({{"type", "image_url"}}), {place, "image_url"});
  EXPECT_EQ(ask(picture(json::object()), " --max-long-side 100").status, 2);
  // What the command line names needs no place.
  EXPECT_EQ(run_m3("generate " + nano() + " --prompt x --image /nowhere").err.find("messages"),
            std::string::npos);
}

TEST(Chat, CommandsAreReadAsPeopleTypeThem) {
  const TemporaryDirectory work;
  fs::copy(media_file("turned.png"), work.path() + "/a b.png");
  const auto says = [&](const std::string& lines, const std::string& options = "") {
    const Outcome outcome = run_m3("chat " + nano() + " --max-tokens 1 --seed 1" + options, lines,
                                   "HOME=" + work.path() + " ");
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return outcome.out + outcome.err;
  };
  const std::string path = work.path() + "/a b.png";
  for (const std::string& line :
       {"/image  " + path + " ", "/image\t" + path, "/image '" + path + "'",
        "/image \"" + path + "\"", std::string("/image ~/a b.png"), "/image " + path + "\r"}) {
    const std::string said = says(line + "\nHi\n");
    EXPECT_NE(said.find(path + ": "), std::string::npos) << line << said;
    EXPECT_NE(said.find(" pixels, "), std::string::npos) << line << said;
    EXPECT_EQ(said.find("m3 chat:"), std::string::npos) << line << said;
  }
  EXPECT_NE(says("/video " + media_file("turned.mp4") + "\n").find(" frames of "),
            std::string::npos);
  EXPECT_NE(says("/image\n").find("/image needs a file: /image F"), std::string::npos);
  for (const char* word : {"/img x", "/IMAGE x", "/bogus"})
    EXPECT_NE(says(std::string(word) + "\n").find("There is no command /"), std::string::npos);
  EXPECT_EQ(says("/usr/bin/x is what?\n").find("There is no command"), std::string::npos);
  EXPECT_NE(says("/exit  \nHi\n").find("/exit"), std::string::npos);
  EXPECT_NE(says("/image " + path + "\n", " --language-model-only").find("--language-model-only"),
            std::string::npos);
  EXPECT_EQ(run_m3("chat " + nano() + " --fps 0").status, 2);
}

TEST(CacheTypes, AreChosenByName) {
  const TemporaryDirectory work;
  const std::string ids = " --ids-file " + work.write("ids.json", "[1, 2, 3]");
  for (const char* command : {"generate ", "logits "}) {
    const std::string out =
        command[0] == 'l' ? " --out " + work.path() + "/out" : " --max-tokens 4";
    EXPECT_EQ(run_m3(command + nano() + ids + out + " --kv-dtype fp8 --index-dtype bf16").status,
              0);
    EXPECT_EQ(run_m3(command + nano() + ids + out + " --kv-dtype int4").status, 2);
  }
  const Outcome outcome = run_m3("inspect " + nano() + " --index-dtype fp8 --json");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json memory = json::parse(outcome.out)["memory"];
  EXPECT_EQ(memory["index_dtype"], "F8_E4M3");
  EXPECT_EQ(memory["kv_dtype"], "BF16");
}

TEST(Inspect, CountsFromTheHeaders) {
  const Outcome outcome = run_m3("inspect " + nano() + " --context 1000 --json");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json summary = json::parse(outcome.out);
  for (const char* key : {"values", "values_active", "tensors", "bytes", "memory"})
    EXPECT_TRUE(summary.contains(key)) << key;
}

// ------------------------------------------------------------------------------------- bad input

}  // namespace
}  // namespace m3
