#include "train/router_bias.h"

#include <map>
#include <numeric>

namespace m3 {

Result<RouterBiases> RouterBiases::create(Model& model, const TrainedParts& parts) {
  if (!model.config().router_bias)
    return fail(
        "the model's routers have no bias (use_routing_bias is false): none can follow "
        "the load");
  std::map<const Tensor*, std::int64_t> layers;
  for (std::int64_t layer = 0; layer < model.config().layers + model.mtp_modules(); ++layer)
    if (const auto& moe = model.layer_weights(layer).moe) layers[&moe->router_bias] = layer;
  M3_TRY(const auto table, weight_table(model.config(), model.mtp_modules(), &model.weights()));
  RouterBiases biases;
  for (const WeightSpec& spec : table) {
    Tensor* const* place = std::get_if<Tensor*>(&spec.place);
    if (place == nullptr || !layers.contains(*place)) continue;
    if (!(spec.part == Part::kMtp ? parts.mtp : parts.text)) continue;
    biases.weights_.push_back(spec);
    biases.values_.push_back(**place);
    biases.layers_.push_back(layers.at(*place));
  }
  return biases;
}

void RouterBiases::follow(const ExpertLoads& loads, double rate) const {
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const LayerLoads& layer = loads.layers()[static_cast<std::size_t>(layers_[i])];
    const std::int64_t sum = std::accumulate(layer.begin(), layer.end(), std::int64_t{0});
    for (std::size_t e = 0; e < layer.size(); ++e) {
      const std::int64_t below = sum - layer[e] * std::ssize(layer);  // times the experts
      values_[i].as<float>()[e] += static_cast<float>(rate * ((below > 0) - (below < 0)));
    }
  }
}

}  // namespace m3
