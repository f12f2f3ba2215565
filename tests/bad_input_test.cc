// What careless or hostile users get: one sentence, and nothing lost.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// nano in a directory of its own, to be damaged.
std::string copy_of_nano(const TemporaryDirectory& where) {
  const std::string copy = where.path() + "/model";
  fs::copy(nano(), copy);
  return copy;
}

TEST(BadInput, NotAModel) {
  const TemporaryDirectory work;
  expect_refused(run_m3("inspect " + work.path()), {work.path(), "config.json"});
  expect_refused(run_m3("chat /nowhere/at/all"), {"/nowhere/at/all"});
  expect_refused(run_m3("chat " + work.write("file", "text")), {"file"});
}

TEST(BadInput, TruncatedShard) {
  const TemporaryDirectory work;
  const std::string model = copy_of_nano(work);
  std::string shard;
  for (const auto& entry : fs::directory_iterator(model))
    if (entry.path().extension() == ".safetensors") shard = entry.path();
  fs::resize_file(shard, fs::file_size(shard) / 2);
  expect_refused(run_m3("generate " + model + " --prompt x"), {fs::path(shard).filename()});
}

TEST(BadInput, HeaderLengthOfTwoToThe63) {
  const TemporaryDirectory work;
  const std::string model = copy_of_nano(work);
  std::ofstream(model + "/model-extra.safetensors", std::ios::binary)
      << std::string("\0\0\0\0\0\0\0\x80", 8) << "{}";
  expect_refused(run_m3("inspect " + model), {"model-extra.safetensors"});
}

TEST(BadInput, TokenizerOfAnUnknownType) {
  const TemporaryDirectory work;
  const std::string model = copy_of_nano(work);
  json tokenizer = json::parse(*read_text_file(model + "/tokenizer.json"));
  tokenizer["model"]["type"] = "Unigram";
  std::ofstream(model + "/tokenizer.json") << tokenizer.dump();
  expect_refused(run_m3("chat " + model, "Hi\n"), {"Unigram", "BPE"});
  expect_refused(run_m3("tokenize " + model + " --jsonl -", "{\"text\": \"x\"}\n"), {"Unigram"});
}

TEST(BadInput, PromptsThatDoNotFit) {
  const TemporaryDirectory work;
  std::string ids = "[0";
  for (int i = 0; i < 4999; ++i) ids += ",1";
  const std::string many = work.write("many.json", ids + "]");
  // nano has 4,096 positions.
  expect_refused(run_m3("generate " + nano() + " --ids-file " + many), {"5000", "4096"});
  expect_refused(
      run_m3("logits " + nano() + " --ids-file " + many + " --out " + work.path() + "/o"),
      {"5000", "4096"});
  const std::string few = work.write("few.json", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]");
  expect_refused(run_m3("generate " + nano() + " --max-tokens 60 --context 32 --ids-file " + few),
                 {"17", "32", "--context"});
  expect_refused(run_m3("generate " + nano() + " --context 5000 --ids-file " + few), {"4096"});
}

TEST(BadInput, MtpWhereThereIsNone) {
  const TemporaryDirectory work;
  const std::string ids = work.write("ids.json", "[1, 2, 3]"), out = work.path() + "/out";
  const std::string logits = " --ids-file " + ids + " --out " + out;
  expect_refused(run_m3("logits " + nano() + logits + " --mtp"), {"holds no MTP module"});
  const std::string config = " --config " + tiny_model_directory("nano-mtp") + "/config.json";
  const std::string alone = work.path() + "/alone";
  ASSERT_EQ(run_m3("synth --mtp-only --seed 17 --out " + alone + config).status, 0);
  const std::string heads = tiny_model_directory("heads");
  expect_refused(run_m3("logits " + heads + logits + " --mtp --mtp-model " + alone),
                 {"alone/config.json", "another model"});
  const std::string model = tiny_model_directory("nano-mtp");
  const Outcome bundled = run_m3("logits " + model + logits + " --mtp");
  EXPECT_EQ(bundled.status, 0) << bundled.err;
  const auto first = read_text_file(out);
  const Outcome apart = run_m3("logits " + model + logits + " --mtp --mtp-model " + alone);
  EXPECT_EQ(apart.status, 0) << apart.err;
  EXPECT_EQ(*first, *read_text_file(out));
  work.write("ids.json", "[1]");
  expect_refused(run_m3("logits " + model + logits + " --mtp"), {"one token"});
}

TEST(BadInput, IdsOutsideTheVocabulary) {
  const TemporaryDirectory work;
  for (const char* list :
       {"[1, 4096]", "[1, -1]", "[1, 1e99]", "{}", "[", "[]", "[1.5]", "[[1]]"}) {
    const std::string ids = work.write("ids.json", list);
    const Outcome outcome = run_m3("generate " + nano() + " --ids-file " + ids);
    EXPECT_EQ(outcome.status, 1) << list << outcome.err;
    EXPECT_EQ(run_m3("logits " + nano() + " --ids-file " + ids + " --out /dev/null").status, 1);
  }
  expect_refused(
      run_m3("generate " + nano() + " --ids-file " + work.write("ids.json", "[1, 4096]")),
      {"4096"});
}

TEST(BadInput, PlaceholdersWithoutPixels) {
  const TemporaryDirectory work;
  for (const char* id : {"4057", "4058"}) {
    const std::string ids = work.write("ids.json", "[1, " + std::string(id) + ", 2]");
    expect_refused(run_m3("generate " + nano() + " --ids-file " + ids), {id, "--rows"});
    expect_refused(run_m3("logits " + nano() + " --out /dev/null --ids-file " + ids),
                   {id, "--rows"});
  }
}

TEST(BadInput, AModelWithoutItsVisionTower) {
  const TemporaryDirectory work;
  const std::string picture = media_file("turned.png");
  const std::string ids = work.write("ids.json", "[1, 2, 3]");
  const std::string rows = work.path() + "/rows";
  ASSERT_EQ(
      run_m3("vision " + nano() + " --rows-only --image " + picture + " --out " + rows).status, 0);
  const std::string alone = "generate " + nano() + " --language-model-only ";
  expect_refused(run_m3(alone + "--ids-file " + ids + " --rows " + rows),
                 {"--language-model-only", "--rows"});
  expect_refused(run_m3(alone + "--prompt x --image " + picture), {"--language-model-only"});
  // A checkpoint whose tower is not on the disk.
  const std::string text = work.path() + "/text";
  json config = json::parse(*read_text_file(nano() + "/config.json"));
  config.erase("vision_config");
  const std::string file = work.write("config.json", config.dump());
  ASSERT_EQ(run_m3("synth --config " + file + " --out " + text).status, 0);
  fs::copy(nano() + "/config.json", text + "/config.json", fs::copy_options::overwrite_existing);
  expect_refused(run_m3("inspect " + text), {"vision_tower", "--language-model-only"});
  EXPECT_EQ(run_m3("inspect --language-model-only " + text).status, 0);
}

TEST(BadInput, TenMegabytePrompt) {
  const TemporaryDirectory work;
  const std::string text(10'000'000, 'a');
  const std::string file =
      work.write("messages.json", R"([{"role": "user", "content": ")" + text + "\"}]");
  expect_refused(run_m3("generate " + nano() + " --messages " + file), {"tokens", "4096"});
}

TEST(BadInput, InvalidUtf8) {
  const Outcome outcome =
      run_m3("generate " + nano() + " --prompt \"$(printf 'a\\377\\376b')\" --max-tokens 1 --json");
  EXPECT_LE(outcome.status, 1) << outcome.err;
  const TemporaryDirectory work;
  const std::string file =
      work.write("messages.json", "[{\"role\": \"user\", \"content\": \"\xff\"}]");
  expect_refused(run_m3("generate " + nano() + " --messages " + file), {"UTF-8"});
  const Outcome piped = run_m3("chat " + nano() + " --max-tokens 2", "caf\xe9 \xff\n");
  EXPECT_EQ(piped.status, 0) << piped.err;
}

TEST(BadInput, DiskFullWhileWriting) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/model";
  expect_refused(run_m3("synth --preset nano --out " + out, "", "ulimit -f 100; "), {out});
  const std::string ids = work.write("ids.json", "[1, 2, 3, 4, 5, 6, 7, 8]");
  const std::string logits = work.path() + "/logits.safetensors";
  expect_refused(
      run_m3("logits " + nano() + " --ids-file " + ids + " --out " + logits, "", "ulimit -f 10; "),
      {"logits.safetensors"});
  EXPECT_FALSE(fs::exists(logits));
  EXPECT_EQ(run_m3("inspect " + nano() + " --json > /dev/full; exit $?; true").status, 1);
}

TEST(BadInput, SynthNeverReplacesAnotherModel) {
  const TemporaryDirectory work;
  const std::string out = work.path() + "/out";
  const std::string eagle3 = "synth --preset eagle3-nano --out " + out;
  const std::string flat =
      "synth --config " + tiny_model_directory("flat") + "/config.json --out " + out;
  ASSERT_EQ(run_m3(eagle3).status, 0);
  ASSERT_EQ(run_m3(eagle3 + " --seed 3").status, 0);  // the same again replaces
  const auto config = read_text_file(out + "/config.json");
  expect_refused(run_m3(flat), {"already holds", "remove it"});
  expect_refused(run_m3("synth --preset nano --out " + out), {"already holds", "remove it"});
  EXPECT_EQ(*config, *read_text_file(out + "/config.json"));
  fs::remove_all(out);
  ASSERT_EQ(run_m3(flat).status, 0);
  expect_refused(run_m3(eagle3), {"already holds", "remove it"});
  // Weights that nobody drew, beside the very config.
  fs::remove(out + "/model.safetensors");
  work.write("out/model.safetensors", "trained");
  expect_refused(run_m3(flat), {"already holds model.safetensors"});
}

TEST(BadInput, SynthOptionsThatWouldDoNothing) {
  const TemporaryDirectory work;
  const std::string out = " --out " + work.path() + "/out";
  expect_refused(run_m3("synth --preset eagle3-nano --mtp-only" + out), {"--mtp-only"});
  expect_refused(run_m3("synth --preset nano --vision-layers 3" + out), {"--vision-layers"});
  EXPECT_FALSE(fs::exists(work.path() + "/out"));
}

TEST(BadInput, DevicesAndPipesAreNotReplaced) {
  const TemporaryDirectory work;
  const std::string ids = work.write("ids.json", "[1, 2, 3]");
  const std::string pipe = work.path() + "/pipe";
  ASSERT_EQ(std::system(("mkfifo " + pipe).c_str()), 0);
  expect_refused(run_m3("logits " + nano() + " --ids-file " + ids + " --out " + pipe),
                 {"regular file"});
  EXPECT_TRUE(fs::is_fifo(pipe));
  const std::string model = copy_of_nano(work);
  ASSERT_EQ(std::system(("mkfifo " + model + "/more.safetensors").c_str()), 0);
  expect_refused(run_m3("inspect " + model), {"more.safetensors", "regular file"});
}

TEST(BadInput, NestingWithoutEnd) {
  const TemporaryDirectory work;
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  expect_refused(run_m3("generate " + nano() + " --ids-file " + work.write("ids.json", deep)),
                 {"ids.json"});
  expect_refused(run_m3("generate " + nano() + " --messages " + work.write("m.json", deep)),
                 {"m.json"});
}

TEST(BadInput, NoMemoryIsASentence) {
#ifdef M3_SANITIZED
  GTEST_SKIP() << "a sanitizer needs more address space than the limit leaves";
#endif
  // The head of a PNG of 10,000 x 10,000 pixels: 300 MB, where the program alone takes half of
  // that.
  const std::string png(
      "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x27\x10\0\0\x27\x10\x08\x02\0\0\0\x35\x2c\xf5\x70\0\0\0"
      "\x64IDAT",
      41);
  const TemporaryDirectory work;
  expect_refused(run_m3("vision " + nano() + " --rows-only --out " + work.path() + "/out --image " +
                            work.write("large.png", png),
                        "", "ulimit -v 300000; "),
                 {"memory"});
}

TEST(BadInput, PlatformsThatAreNotHere) {
  expect_refused(run_m3("generate " + nano() + " --prompt x --backend cuda"), {"cuda", "absent"});
  expect_refused(run_m3("generate " + nano() + " --prompt x --backend tpu"), {"tpu", "reference"});
  expect_refused(run_m3("generate " + nano() + " --prompt x --isa avx1024"), {"avx1024", "x86-64"});
}

TEST(BadInput, SamplingOutOfRange) {
  expect_refused(run_m3("generate " + nano() + " --prompt x --temperature -1"), {"temperature"});
  expect_refused(run_m3("generate " + nano() + " --prompt x --top-p 1.5"), {"--top-p", "1.5"});
  expect_refused(run_m3("generate " + nano() + " --prompt x --logit-bias seven"), {"seven"});
  expect_refused(run_m3("generate " + nano() + " --prompt x --max-tokens 0"), {"--max-tokens"});
  expect_refused(run_m3("generate " + nano() + " --prompt x --seed -1"), {"--seed", "-1"});
  expect_refused(run_m3("generate " + nano() + " --prompt x --stop-id 4096"), {"4096", "4095"});
  const TemporaryDirectory work;
  const std::string model = copy_of_nano(work);
  std::ofstream(model + "/generation_config.json") << R"({"top_p": 1.5})";
  expect_refused(run_m3("generate " + model + " --prompt x"),
                 {"generation_config.json", "top_p", "1.5"});
}

// What `m3 gradients` and `m3 train` say of their batches and options.
TEST(BadInput, TrainingBatches) {
  const TemporaryDirectory work;
  const auto gradients = [&](const std::string& batch, const std::string& more = "") {
    return run_m3("gradients " + nano() + " --backend reference --batch " +
                  work.write("batch.json", batch) + " --out " + work.path() + "/out" + more);
  };
  const auto of = [](const std::string& sequence) { return "{\"sequences\": [" + sequence + "]}"; };
  const std::string good = R"({"ids": [1, 2], "labels": [2, -100]})";
  expect_refused(gradients("{"), {"batch.json"});
  expect_refused(gradients("[]"), {"batch.json", "sequences"});
  expect_refused(gradients(of("")), {"batch.json", "at least one"});
  expect_refused(gradients(of(good + R"(, {"ids": [1]})")), {"sequence 2", "labels"});
  expect_refused(gradients(of(R"({"ids": [1, 2], "labels": [2]})")), {"2 ids", "1 labels"});
  expect_refused(gradients(of(R"({"ids": [-1], "labels": [2]})")), {"-1"});
  expect_refused(gradients(of(R"({"ids": [1], "labels": [99999999]})")), {"99999999"});
  expect_refused(gradients(of(good), " --train ears"), {"text", "vision", "ears"});
  expect_refused(gradients(of(good), " --mtp-scale 0.1"), {"MTP"});

  const auto train = [&](const std::string& steps, const std::string& more = " --full") {
    return run_m3("train " + nano() + " --backend reference --precision f32 --batches " +
                  work.write("steps.json", steps) + more);
  };
  const std::string steps = "{\"steps\": [" + of(good) + "]}";
  expect_refused(train(steps, ""), {"--full"});
  expect_refused(train(of(good)), {"steps.json", "steps"});
  expect_refused(train("{\"steps\": [{}]}"), {"step 1", "sequences"});
  expect_refused(train("{\n\"steps\": [}"), {"steps.json: JSON at line 2, byte 10"});
  expect_refused(
      train("{\"steps\": [" + of(good) + ", " + of(R"({"ids": [1], "labels": [-100]})") + "]}"),
      {"steps.json: step 2: no label is scored"});
  expect_refused(train(steps, " --full --train vision"), {"vision"});
  expect_refused(train(steps, " --full --betas 0.9"), {"--betas", "two"});
  expect_refused(train(steps, " --full --betas 0.9,1"), {"--betas"});
  expect_refused(train(steps, " --full --warmup 7"), {"--warmup 7", "1 steps"});
  expect_refused(train(steps, " --full --min-lr 1 --lr 0.1"), {"--min-lr", "--lr"});
  expect_refused(train(steps, " --full --schedule square"), {"square"});
}

}  // namespace
}  // namespace m3
