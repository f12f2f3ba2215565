#include "train/expert_loads.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace m3 {
namespace {

// At a share of the way through values that ascend.
double quantile(std::span<const double> sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], place - static_cast<double>(below));
}

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

struct LayerBalance {
  std::int64_t layer = 0;
  std::vector<double> utilization;  // [experts]

  double cv() const {
    double squares = 0;
    for (const double u : utilization) squares += (u - 1) * (u - 1);
    const auto others = static_cast<double>(utilization.size() - 1);
    return others > 0 ? std::sqrt(squares / others) : 0;
  }
  double dead() const {
    return static_cast<double>(std::ranges::count(utilization, 0.0)) /
           static_cast<double>(utilization.size());
  }
  double diversity() const {
    const auto experts = static_cast<double>(utilization.size());
    double entropy = 0;
    for (const double u : utilization)
      if (u > 0) entropy -= u / experts * std::log(u / experts);
    return std::exp(entropy) / experts;
  }
};

std::vector<LayerBalance> balances(std::span<const LayerLoads> loads) {
  std::vector<LayerBalance> layers;
  for (std::size_t l = 0; l < loads.size(); ++l) {
    if (loads[l].empty()) continue;
    const auto all =
        static_cast<double>(std::accumulate(loads[l].begin(), loads[l].end(), std::int64_t{0}));
    LayerBalance& balance = layers.emplace_back();
    balance.layer = static_cast<std::int64_t>(l);
    for (const std::int64_t load : loads[l])
      balance.utilization.push_back(static_cast<double>(load) *
                                    static_cast<double>(loads[l].size()) / all);
  }
  return layers;
}

std::vector<double> of_each(const std::vector<LayerBalance>& layers,
                            double (LayerBalance::*measure)() const) {
  std::vector<double> values;
  for (const LayerBalance& layer : layers) values.push_back((layer.*measure)());
  std::ranges::sort(values);
  return values;
}

void add_layer(const LayerBalance& layer, std::vector<Measure>& measures) {
  const std::string key = fmt::format("moe/layer_{}/", layer.layer);
  measures.push_back({key + "cv", layer.cv()});
  measures.push_back({key + "dead_expert_frac", layer.dead()});
  measures.push_back({key + "expert_diversity", layer.diversity()});
  for (std::size_t e = 0; e < layer.utilization.size(); ++e)
    measures.push_back({fmt::format("moe_expert_utilization/layer_{}_expert_{}", layer.layer, e),
                        layer.utilization[e]});
}

}  // namespace

ExpertLoads::ExpertLoads(const Model& model)
    : model_(&model),
      layers_(static_cast<std::size_t>(model.config().layers + model.mtp_modules())) {}

void ExpertLoads::saw_experts(std::int64_t layer, const Tensor& experts, const Tensor&) {
  model_->backend().synchronize();
  LayerLoads& loads = layers_[static_cast<std::size_t>(layer)];
  loads.resize(static_cast<std::size_t>(model_->config().experts), 0);
  for (std::int64_t i = 0; i < experts.elements(); ++i) {
    const std::int32_t expert = experts.as<std::int32_t>()[i];
    if (expert >= 0) ++loads[static_cast<std::size_t>(expert)];
  }
}

std::vector<Measure> load_measures(std::span<const LayerLoads> loads, bool by_layer) {
  const std::vector<LayerBalance> layers = balances(loads);
  if (layers.empty()) return {};
  const auto cv = of_each(layers, &LayerBalance::cv), dead = of_each(layers, &LayerBalance::dead),
             diversity = of_each(layers, &LayerBalance::diversity);
  std::vector<double> all;
  for (const LayerBalance& layer : layers)
    all.insert(all.end(), layer.utilization.begin(), layer.utilization.end());
  std::ranges::sort(all);
  std::vector<Measure> measures = {{"moe/cv_mean", mean(cv)},
                                   {"moe/cv_median", quantile(cv, 0.5)},
                                   {"moe/cv_min", cv.front()},
                                   {"moe/cv_max", cv.back()},
                                   {"moe/expert_utilization_p25", quantile(all, 0.25)},
                                   {"moe/expert_utilization_median", quantile(all, 0.5)},
                                   {"moe/expert_utilization_p75", quantile(all, 0.75)},
                                   {"moe/expert_utilization_min", all.front()},
                                   {"moe/expert_utilization_max", all.back()},
                                   {"moe/dead_expert_frac_mean", mean(dead)},
                                   {"moe/expert_diversity_mean", mean(diversity)},
                                   {"moe/expert_diversity_min", diversity.front()}};
  if (by_layer)
    for (const LayerBalance& layer : layers) add_layer(layer, measures);
  for (Measure& measure : measures) measure.is_brief = false;
  return measures;
}

}  // namespace m3
