#include "model/initial_values.h"

#include <cmath>

#include "model/synth.h"
#include "model/test_model.h"

namespace m3 {
namespace {

struct Moments {
  double mean = 0, deviation = 0, largest = 0;
};

Moments moments(const std::vector<float>& values) {
  Moments m;
  const auto count = static_cast<double>(values.size());
  for (const float x : values) m.mean += x / count;
  for (const float x : values) {
    m.deviation += (x - m.mean) * (x - m.mean) / count;
    m.largest = std::max<double>(m.largest, std::abs(x));
  }
  m.deviation = std::sqrt(m.deviation);
  return m;
}

class InitialValuesTest : public testing::Test {
 protected:
  InitialValuesTest() : config_(*parse_config(tiny_config().dump(), "test")) {
    table_ = *weight_table(config_, 1);
  }
  // Of the first weight whose name ends so.
  std::vector<float> values_of(const std::string& end, std::uint64_t seed = 7) const {
    for (const WeightSpec& spec : table_) {
      if (!spec.name.ends_with(end)) continue;
      std::vector<float> values(static_cast<std::size_t>(spec.elements()));
      InitialValues(config_, table_, seed).draw(spec, 0, spec.elements(), values.data());
      return values;
    }
    ADD_FAILURE() << "no weight " << end;
    return {0};
  }
  void expect_normal(const std::string& name, double deviation) const {
    const auto values = values_of(name);
    const Moments m = moments(values);
    const double error = 5 * deviation / std::sqrt(static_cast<double>(values.size()));
    EXPECT_NEAR(m.mean, 0, error) << name;
    EXPECT_NEAR(m.deviation, deviation, error) << name;
    EXPECT_GT(m.largest, 2 * deviation) << name;
  }

  Config config_;
  std::vector<WeightSpec> table_;
};

// Spec: training §5.
TEST_F(InitialValuesTest, OfTheTextModel) {
  expect_normal("embed_tokens.weight", 1);
  for (const std::string name :
       {"q_proj.weight", "o_proj.weight", "index_q_proj.weight", "mlp.gate_proj.weight",
        "experts.1.w2.weight", "block_sparse_moe.gate.weight", "shared_experts.up_proj.weight",
        "eh_proj.weight"})
    expect_normal(name, 0.02);
  for (const std::string name : {"input_layernorm.weight", "q_norm.weight", "index_k_norm.weight",
                                 "model.norm.weight", "e_score_correction_bias", "enorm.weight"})
    EXPECT_EQ(moments(values_of(name)).largest, 0) << name;
}

TEST_F(InitialValuesTest, OfTheHeadEndAtThreeDeviations) {
  const double deviation = 1 / std::sqrt(static_cast<double>(config_.hidden));
  const Moments m = moments(values_of("lm_head.weight"));
  EXPECT_LE(m.largest, 3 * deviation * (1 + 1e-6));
  EXPECT_NEAR(m.deviation, 0.9866 * deviation, 0.03 * deviation);  // of a normal within 3
}

TEST_F(InitialValuesTest, OfTheVisionTowerFollowTheInputs) {
  if (!config_.vision) GTEST_SKIP() << "no tower in this config";
  const double bound = 1 / std::sqrt(static_cast<double>(config_.vision->inner));
  for (const std::string name : {"fc2.weight", "fc2.bias"}) {
    const Moments m = moments(values_of(name));
    EXPECT_LE(m.largest, bound) << name;
    EXPECT_GT(m.largest, bound / 2) << name;
  }
  EXPECT_NEAR(moments(values_of("fc2.weight")).deviation, bound / std::sqrt(3.0), 0.05 * bound);
  for (const float x : values_of("layer_norm1.weight")) EXPECT_EQ(x, 1);
  for (const float x : values_of("layer_norm1.bias")) EXPECT_EQ(x, 0);
}

TEST_F(InitialValuesTest, DependOnSeedNameAndIndexAlone) {
  EXPECT_EQ(values_of("q_proj.weight"), values_of("q_proj.weight"));
  EXPECT_NE(values_of("q_proj.weight"), values_of("q_proj.weight", 8));
  EXPECT_NE(values_of("k_proj.weight"), values_of("v_proj.weight"));
  const WeightSpec& spec = table_[0];
  float whole[8], part[3];
  const InitialValues values(config_, table_, 7);
  values.draw(spec, 0, 8, whole);
  values.draw(spec, 4, 3, part);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(part[i], whole[4 + i]);
}

TEST_F(InitialValuesTest, MakeAModelThatLoads) {
  const TestDirectory directory;
  SynthOptions options{
      .config_json = tiny_config().dump(), .directory = directory.path(), .seed = 3};
  options.draw = SynthDraw::kForTraining;
  const Status written = synth_checkpoint(options);
  ASSERT_TRUE(written) << written.error().message;
  auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint);
  EXPECT_TRUE(load_weights(config_, std::move(*checkpoint)));
}

}  // namespace
}  // namespace m3
