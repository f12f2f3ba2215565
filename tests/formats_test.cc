// Number formats from end to end: written, looked at, run and compared by the built program.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
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

json parsed(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return outcome.status == 0 ? json::parse(outcome.out) : json();
}

std::string quantized(const TemporaryDirectory& work, const std::string& format) {
  const std::string out = work.path() + "/" + format;
  const Outcome outcome = run_m3("quantize " + nano() + " --format " + format + " --out " + out);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("routed experts"), std::string::npos) << outcome.out;
  return out;
}

// Ids that a random model finds neither likely nor unlikely.
std::string ids_file(const TemporaryDirectory& work, int count) {
  json ids = json::array();
  for (int i = 0; i < count; ++i) ids.push_back(i * 577 % 4000);
  return work.write("ids.json", ids.dump());
}

class EveryFormat : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Formats, EveryFormat, testing::Values("mxfp8", "mxfp4", "nvfp4", "int8"),
                         [](const auto& format) { return std::string(format.param); });

TEST_P(EveryFormat, IsWrittenLookedAtRunAndCompared) {
  const TemporaryDirectory work;
  const std::string format = GetParam(), out = quantized(work, format);
  const json before = parsed(run_m3("inspect --json " + nano()));
  const json after = parsed(run_m3("inspect --json " + out));
  EXPECT_EQ(after["values"], before["values"]);
  EXPECT_LT(after["bytes"], before["bytes"]);
  EXPECT_EQ(after["warnings"], json::array());
  EXPECT_EQ(after["formats"][format]["weights"], format == "mxfp8" ? 178 : 172);

  const json answer =
      parsed(run_m3("generate " + out + " --prompt Hello --max-tokens 4 --ignore-eos --json"));
  EXPECT_EQ(answer["ids"].size(), 4u);

  const json result = parsed(run_m3("perplexity " + out + " --against " + nano() +
                                    " --context 64 " + "--json --ids-file " + ids_file(work, 200)));
  EXPECT_EQ(result["windows"], 3);
  EXPECT_EQ(result["tokens"], 3 * 31);
  const json& against = result["against"];
  EXPECT_TRUE(against["kl"].is_number());
  EXPECT_GT(against["kl"], 0);
  EXPECT_LT(against["kl"], 3);  // a random model of 4,096 ids magnifies every change
  EXPECT_GT(result["perplexity"], 1);
  EXPECT_TRUE(against["top1_agreement"].is_number());
}

TEST(Quantize, TellsTheErrorOfEveryWeight) {
  const TemporaryDirectory work;
  const json report =
      parsed(run_m3("quantize " + nano() + " --format mxfp4 --json --out " + work.path() +
                    "/out --keep '*layers.1.*experts*=int8' " + "--keep '*lm_head*=mxfp8'"));
  EXPECT_LT(report["bytes"], report["source_bytes"]);
  int of_int8 = 0;
  for (const json& weight : report["weights"]) {
    const bool kept = weight["from"] == weight["format"];
    EXPECT_EQ(weight["relative_rms_error"] == 0, kept) << weight;
    EXPECT_LT(weight["relative_rms_error"], 0.15) << weight;
    of_int8 += weight["format"] == "int8" ? 1 : 0;
  }
  EXPECT_EQ(of_int8, 16 * 3 + 3);
  EXPECT_EQ(report["weights"].size(), 252u);
}

TEST(Quantize, RefusesWhatItCannotDo) {
  const TemporaryDirectory work;
  const std::string out = " --out " + work.path() + "/out", source = "quantize " + nano();
  EXPECT_EQ(run_m3(source + " --format int3" + out).status, 2);
  EXPECT_EQ(run_m3(source + " --format mxfp4").status, 2);
  EXPECT_EQ(run_m3(source + out).status, 2);
  const std::string base = source + " --format mxfp4";
  expect_refused(run_m3(base + out + " --keep '*o_proj*'"), {"--keep *o_proj*", "PATTERN=FORMAT"});
  expect_refused(run_m3(base + out + " --keep '*o_proj*=int3'"), {"int3", "nvfp4"});
  expect_refused(run_m3(base + out + " --keep 'o_proj=bf16'"), {"o_proj", "no weight"});
  expect_refused(run_m3(base + " --out " + nano()), {"the model itself"});
  expect_refused(run_m3(base + " --out /dev/null/x"), {"/dev/null/x"});
  expect_refused(run_m3("quantize /nowhere --format int8" + out), {"/nowhere"});
  const Outcome full = run_m3(base + out, "", "ulimit -f 2000; ");
  expect_refused(full, {work.path() + "/out"});
  for (const auto& entry : fs::directory_iterator(work.path() + "/out"))
    EXPECT_NE(entry.path().extension(), ".safetensors") << entry.path();
  EXPECT_EQ(run_m3(base + out).status, 0);  // what it left there was its own
}

// From the logits, by the rule that perplexity_run.h states.
TEST(Perplexity, IsWhatTheLogitsSay) {
  const TemporaryDirectory work;
  const std::string ids = ids_file(work, 61), logits = work.path() + "/logits";
  ASSERT_EQ(run_m3("logits " + nano() + " --ids-file " + ids + " --out " + logits).status, 0);
  const auto file = SafetensorsFile::open(logits);
  ASSERT_TRUE(file) << file.error().message;
  const Tensor all = (*file)->tensor(*(*file)->find("logits"));
  const json list = json::parse(*read_text_file(ids));
  double loss = 0;
  int count = 0;
  for (std::int64_t row = 30; row < 59; ++row, ++count) {
    double sum = 0;
    for (std::int64_t i = 0; i < all.dim(1); ++i) sum += std::exp(double{all.row<float>(row)[i]});
    loss += std::log(sum) - all.row<float>(row)[list[static_cast<std::size_t>(row + 1)].get<int>()];
  }
  const std::string base = "perplexity " + nano() + " --json --context 60 --ids-file " + ids;
  const json result = parsed(run_m3(base));
  EXPECT_EQ(result["windows"], 1);
  EXPECT_EQ(result["tokens"], count);
  const double expected = std::exp(loss / count);
  EXPECT_NEAR(result["perplexity"].get<double>(), expected, 1e-6 * expected);
  EXPECT_GT(result["perplexity_error"], 0);
  // However it is cut; and a model is as good as itself.
  EXPECT_EQ(parsed(run_m3(base + " --chunk 7 --threads 1")), result);
  const json against = parsed(run_m3(base + " --chunk 9 --against " + nano()))["against"];
  EXPECT_EQ(against["perplexity"], result["perplexity"]);
  EXPECT_LT(against["kl"], 1e-9);
  EXPECT_EQ(against["top1_agreement"], 1);
}

TEST(Perplexity, ReadsTextInWindows) {
  const TemporaryDirectory work;
  std::string text;
  for (int i = 0; i < 300; ++i) text += "The " + std::to_string(i) + "th line ]~b]user says so.\n";
  const std::string base =
      "perplexity " + nano() + " --context 32 --text " + work.write("text", text);
  const Outcome outcome = run_m3(base + " --windows 5");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("5 windows of 32 tokens"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("75 tokens"), std::string::npos) << outcome.out;
  EXPECT_NE(run_m3(base + " --windows 5 --against " + nano()).out.find("KL("), std::string::npos);
}

TEST(Perplexity, RefusesWhatItCannotDo) {
  const TemporaryDirectory work;
  const std::string base = "perplexity " + nano();
  const std::string few = work.write("few.json", "[1, 2, 3]");
  EXPECT_EQ(run_m3(base).status, 2);
  EXPECT_EQ(run_m3(base + " --context 3 --ids-file " + few).status, 2);
  expect_refused(run_m3(base + " --ids-file " + few), {"3 tokens", "512", "--context"});
  expect_refused(run_m3(base + " --text " + work.write("empty", "")), {"0 tokens"});
  expect_refused(run_m3(base + " --context 5000 --ids-file " + ids_file(work, 6000)),
                 {"5000", "4096"});
  expect_refused(run_m3(base + " --context 4 --ids-file " + work.write("a", "[1, 2, 3, 4096]")),
                 {"token 3", "4096"});
  expect_refused(run_m3(base + " --text /nowhere"), {"/nowhere"});
  expect_refused(run_m3(base + " --ids-file " + few + " --against /nowhere"), {"/nowhere"});
  const std::string other = tiny_model_directory("flat");
  expect_refused(run_m3(base + " --context 4 --ids-file " + work.write("b", "[1, 2, 3, 4]") +
                        " --against " + other),
                 {"vocabularies", "4096"});
}

}  // namespace
}  // namespace m3
