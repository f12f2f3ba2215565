// `m3 bench`: what it tells, and the picture that it draws.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/bench_plot.h"
#include "base/file.h"
#include "tests/program.h"
#include "tests/temporary_directory.h"

namespace m3 {
namespace {

using nlohmann::json;

// As far as our pictures go: elements are closed in order, and text holds no bare < or &.
bool is_well_formed(const std::string& xml) {
  std::vector<std::string> open;
  for (std::size_t at = 0; at < xml.size(); ++at) {
    if (xml[at] == '&') {
      const std::size_t end = xml.find(';', at);
      const std::string name = xml.substr(at + 1, end - at - 1);
      if (name != "amp" && name != "lt" && name != "gt") return false;
    }
    if (xml[at] != '<') continue;
    const std::size_t end = xml.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = xml.substr(at + 1, end - at - 1);
    at = end;
    if (tag.find('<') != std::string::npos || std::count(tag.begin(), tag.end(), '"') % 2 != 0)
      return false;
    if (tag.ends_with('/')) continue;
    if (!tag.starts_with('/')) {
      open.push_back(tag.substr(0, tag.find(' ')));
      continue;
    }
    if (open.empty() || open.back() != tag.substr(1)) return false;
    open.pop_back();
  }
  return open.empty() && xml.starts_with("<svg ");
}

// One model of which everything is told, twice, as if it were two.
TEST(Bench, TellsStagesAndLimitsAsJsonAndDrawsThem) {
  const TemporaryDirectory work;
  const std::string plot = work.path() + "/plot.svg";
  const Outcome outcome = run_m3("bench " + nano() + " " + nano() +
                                 " --pp 16 --tg 4 --depth 100 --batch 2 --json --plot " + plot);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json out = json::parse(outcome.out);
  for (const char* key : {"read_gbps", "bf16_tflops", "int8_tops", "threads"})
    EXPECT_GT(out["machine"][key], 0) << key;
  ASSERT_EQ(out["rows"].size(), 4u);
  for (const json& row : out["rows"]) {
    EXPECT_EQ(row["format"], "bf16");
    EXPECT_TRUE(row["limit"] == "read" || row["limit"] == "matrix") << row;
    for (const char* key : {"tokens_per_s", "share", "share_of_best"}) EXPECT_GT(row[key], 0);
    EXPECT_GT(row["limits"]["read_gbps"], 0);
    double parts = 0;
    for (const json& stage : row["stages"]) parts += stage["part"].get<double>();
    EXPECT_NEAR(parts, 1, 1e-6);
    for (const char* stage : {"weights", "attention", "index", "router", "head"})
      EXPECT_GT(row["stages"][stage]["share"], 0) << stage;
  }
  EXPECT_EQ(out["rows"][0]["test"], "pp16");
  EXPECT_EQ(out["rows"][1]["batch"], 2);
  const std::string svg = read_text_file(plot).value();
  EXPECT_TRUE(is_well_formed(svg)) << svg;
  for (const char* words : {"pp16", "batch 2", "share of the limit", "tokens/s", "(bf16)"})
    EXPECT_NE(svg.find(words), std::string::npos) << words;
}

TEST(Bench, PrintsALineOfCsvForEachCase) {
  const Outcome outcome = run_m3("bench " + nano() + " --pp 16 --tg 4 --csv");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  std::istringstream lines(outcome.out);
  std::vector<std::ptrdiff_t> commas;
  for (std::string line; std::getline(lines, line);)
    commas.push_back(std::count(line.begin(), line.end(), ','));
  EXPECT_EQ(commas, std::vector<std::ptrdiff_t>(3, commas.at(0)));
  EXPECT_EQ(outcome.out.find("isa,threads,model,format,test,depth,batch,"), 0u) << outcome.out;
  for (const char* name :
       {",tokens_per_s,", ",share,", ",limits_read_gbps,", ",stages_head_share,"})
    EXPECT_NE(outcome.out.find(name), std::string::npos) << name;
}

TEST(Bench, PicturesHoldAnyName) {
  BenchRow row{.model = "a<b>&\"c\"\n", .format = "bf16", .bench_case = {.tokens = 4}};
  row.median.seconds = 2;
  row.around = {.read_gb_per_s = 1, .matrix_tflop_per_s = 1, .int8_top_per_s = 1};
  row.median.work[Stage::kWeights] = {.bytes = 3'000'000'000};
  const std::string svg = plot_svg({row}, "one & only: fast");
  EXPECT_TRUE(is_well_formed(svg)) << svg;
  EXPECT_NE(svg.find("a&lt;b&gt;&amp;"), std::string::npos);
  EXPECT_NE(svg.find(">150</text>"), std::string::npos) << "a bar above its limit is drawn, too";
}

// The limit that binds is the one that takes longer.
TEST(Bench, RoofsAreOfBytesOrOfProducts) {
  const MachineLimits limits{.read_gb_per_s = 10, .matrix_tflop_per_s = 0.5, .int8_top_per_s = 1};
  constexpr std::int64_t kGiga = 1'000'000'000;
  const Roof reads = roof_of(10 * kGiga, 400 * kGiga, /*int8=*/false, limits);
  EXPECT_EQ(reads.bound, Bound::kRead);
  EXPECT_DOUBLE_EQ(reads.seconds, 1);
  const Roof multiplies = roof_of(10 * kGiga, 2000 * kGiga, /*int8=*/false, limits);
  EXPECT_EQ(multiplies.bound, Bound::kMatrix);
  EXPECT_DOUBLE_EQ(multiplies.seconds, 4);
  const Roof integers = roof_of(10 * kGiga, 2000 * kGiga, /*int8=*/true, limits);
  EXPECT_EQ(integers.bound, Bound::kInt8);
  EXPECT_DOUBLE_EQ(integers.seconds, 2);
}

TEST(Bench, MediansAreOfEachLimit) {
  const MachineLimits median = median_of({{.read_gb_per_s = 1, .matrix_tflop_per_s = 9},
                                          {.read_gb_per_s = 3, .matrix_tflop_per_s = 8},
                                          {.read_gb_per_s = 2, .matrix_tflop_per_s = 1}});
  EXPECT_EQ(median.read_gb_per_s, 2);
  EXPECT_EQ(median.matrix_tflop_per_s, 8);
}

}  // namespace
}  // namespace m3
