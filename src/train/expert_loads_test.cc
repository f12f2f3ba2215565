#include "train/expert_loads.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace m3 {
namespace {

std::map<std::string, double> measures_of(const std::vector<LayerLoads>& loads, bool by_layer) {
  std::map<std::string, double> measures;
  for (const Measure& measure : load_measures(loads, by_layer))
    EXPECT_TRUE(measures.emplace(measure.name, measure.value).second) << measure.name;
  return measures;
}

// A dense layer, one that is balanced, one of whose four experts two do all.
TEST(ExpertLoads, SayHowBalancedTheyAre) {
  auto m = measures_of({{}, {5, 5, 5, 5}, {0, 30, 10, 0}}, /*by_layer=*/true);
  const double cv = std::sqrt((1 + 4 + 0 + 1) / 3.0);  // utilizations 0, 3, 1, 0
  const double entropy = 0.75 * std::log(1 / 0.75) + 0.25 * std::log(4.0);
  EXPECT_NEAR(m.at("moe/cv_mean"), cv / 2, 1e-12);
  EXPECT_NEAR(m.at("moe/cv_median"), cv / 2, 1e-12);
  EXPECT_EQ(m.at("moe/cv_min"), 0);
  EXPECT_NEAR(m.at("moe/cv_max"), cv, 1e-12);
  EXPECT_EQ(m.at("moe/expert_utilization_min"), 0);
  EXPECT_EQ(m.at("moe/expert_utilization_p25"), 0.75);
  EXPECT_EQ(m.at("moe/expert_utilization_median"), 1);
  EXPECT_EQ(m.at("moe/expert_utilization_p75"), 1);
  EXPECT_EQ(m.at("moe/expert_utilization_max"), 3);
  EXPECT_EQ(m.at("moe/dead_expert_frac_mean"), 0.25);
  EXPECT_NEAR(m.at("moe/expert_diversity_min"), std::exp(entropy) / 4, 1e-12);
  EXPECT_NEAR(m.at("moe/expert_diversity_mean"), (1 + std::exp(entropy) / 4) / 2, 1e-12);
  EXPECT_NEAR(m.at("moe/layer_2/cv"), cv, 1e-12);
  EXPECT_EQ(m.at("moe/layer_2/dead_expert_frac"), 0.5);
  EXPECT_EQ(m.at("moe/layer_1/expert_diversity"), 1);
  EXPECT_EQ(m.at("moe_expert_utilization/layer_2_expert_1"), 3);
  EXPECT_FALSE(m.contains("moe/layer_0/cv"));
}

TEST(ExpertLoads, AreBriefWhereNobodyWantsEachLayer) {
  EXPECT_EQ(measures_of({{1, 2}, {3, 4}}, false).size(), 12u);
  EXPECT_TRUE(measures_of({{}, {}}, false).empty());
  EXPECT_EQ(measures_of({{7}}, false).at("moe/cv_max"), 0);
}

}  // namespace
}  // namespace m3
