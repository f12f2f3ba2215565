// Caches of other types than the backend's own: the same promises, and the reference's answers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "apps/logits_run.h"
#include "tests/golden_file.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

constexpr CacheTypes kFp8{DType::kF8E4M3, DType::kF8E4M3};
constexpr CacheTypes kFp8Values{.kv = DType::kF8E4M3, .index = DType::kBF16};

class CacheTypesTest : public testing::TestWithParam<Platform> {
 protected:
  std::vector<float> logits(const std::string& model, const Platform& platform,
                            const CacheTypes& types, const LogitsRun& run, int threads = 2) {
    const TinyModel tiny(tiny_model_directory(model), platform, threads, types);
    const auto recorder = run_logits(*tiny.model, run);
    EXPECT_TRUE(recorder) << (recorder ? "" : recorder.error().message);
    for (const NamedTensor& t : (*recorder)->tensors())
      if (t.name == "logits" || t.name == "1.logits")
        return {t.tensor.as<float>(), t.tensor.as<float>() + t.tensor.elements()};
    return {};
  }
};

std::string platform_name(const testing::TestParamInfo<Platform>& info) {
  std::string name = info.param.name();
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, CacheTypesTest, testing::ValuesIn(platforms()), platform_name);

TEST_P(CacheTypesTest, SameBitsWhateverTheCutTheNeighboursAndTheThreads) {
  std::vector<std::int32_t> ids = GoldenFile("nano-phrases-200").ints("ids");
  ids.resize(90);
  const auto bits = [&](const LogitsRun& run, int threads = 2) {
    return logits("nano", GetParam(), kFp8, run, threads);
  };
  const std::vector<float> whole = bits({.sequences = {ids}});
  for (const std::int64_t chunk : {1, 7})
    EXPECT_TRUE(whole == bits({.sequences = {ids}, .chunk = chunk})) << "chunk " << chunk;
  EXPECT_TRUE(whole == bits({.sequences = {ids}}, 1)) << "one thread";
  const std::vector<std::int32_t> other(ids.rbegin(), ids.rend() - 30);
  EXPECT_TRUE(whole == bits({.sequences = {other, ids}, .chunk = 5})) << "a neighbour";
}

double median_cosine(const std::vector<float>& a, const std::vector<float>& b, std::size_t rows) {
  std::vector<double> cosines;
  const std::size_t width = a.size() / rows;
  for (std::size_t row = 0; row < rows; ++row) {
    double ab = 0, aa = 0, bb = 0;
    for (std::size_t i = row * width; i < (row + 1) * width; ++i) {
      ab += double{a[i]} * b[i];
      aa += double{a[i]} * a[i];
      bb += double{b[i]} * b[i];
    }
    cosines.push_back(ab / std::sqrt(aa * bb));
  }
  std::nth_element(cosines.begin(), cosines.begin() + std::ssize(cosines) / 2, cosines.end());
  return cosines[cosines.size() / 2];
}

// What e4m3 loses is much, and the reference loses the same. A number may round to the neighbour
// of the reference's where arithmetic in bfloat16 moved it, by an eighth of itself.
TEST_P(CacheTypesTest, AgreesWithTheReference) {
  const auto ids = GoldenFile("smooth-phrases-150").ints("ids");
  const LogitsRun run{.sequences = {ids}};
  const std::vector<float> exact = logits("smooth", {"reference", ""}, {}, run);
  for (const CacheTypes& types : {kFp8, kFp8Values}) {
    const std::vector<float> ours = logits("smooth", GetParam(), types, run);
    const std::vector<float> wanted = logits("smooth", {"reference", ""}, types, run);
    ASSERT_EQ(ours.size(), wanted.size());
    const double to_wanted = median_cosine(ours, wanted, ids.size());
    const double to_exact = median_cosine(ours, exact, ids.size());
    EXPECT_GE(to_wanted, 0.9995);
    EXPECT_LT(to_exact, to_wanted) << "nothing was rounded to e4m3";
    EXPECT_GE(to_exact, 0.99);
  }
}

}  // namespace
}  // namespace m3
