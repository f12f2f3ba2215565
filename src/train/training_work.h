// How many operations training takes, from a config and its weight table alone.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "model/config.h"
#include "model/lora.h"
#include "model/weight_table.h"
#include "train/trained_weights.h"

namespace m3 {

// Floating-point operations; a multiply and an add are two. Of the text model and its MTP modules:
// what pictures take is not among them.
struct TrainingFlops {
  double forward = 0;
  double backward = 0;  // by activations and by weights
  double repeated = 0;  // of forward, where layers are computed again
  double useful() const { return forward + backward; }
};

// A matrix, or one of each expert, with an adapter's A and B.
struct AdaptedMatrix {
  std::int64_t layer = 0;
  std::int64_t experts = 1;
  std::int64_t numbers = 0;  // of A and B, for each expert
};
using AdaptedMatrices = std::vector<AdaptedMatrix>;
AdaptedMatrices adapted_by(const Lora& lora);
AdaptedMatrices adapted_by(std::span<const LoraChoice> choices);

class TrainingWork {
 public:
  // All weights of these parts are trained, or with `adapted` an adapter. `table`: of the text
  // model, and of as many MTP modules as are trained; where these alone are, derivatives end above
  // the text model.
  TrainingWork(const Config& config, std::span<const WeightSpec> table, const TrainedParts& parts,
               const std::optional<AdaptedMatrices>& adapted);

  // Of sequences of these lengths, `scored` of whose rows have a label. Counts only what is needed:
  // the head on rows with labels, of attention the keys that are seen, derivatives by what lies
  // above the lowest trained layer. What teaches the indexers counts as backward.
  TrainingFlops flops(std::span<const std::int64_t> lengths, std::int64_t scored,
                      bool repeats) const;

  // Numbers that are trained: weights, or the adapter's A and B.
  std::int64_t trained() const { return trained_; }

 private:
  void add_linear(const WeightSpec& weight, bool trained, bool passes);
  void add_adapter(const AdaptedMatrix& matrix, const Config& config);
  void add_pairs(const Config& config, std::int64_t modules, std::int64_t lowest_layer);
  void add_indexers(const Config& config, std::int64_t modules, const TrainedParts& parts);

  struct Attention {
    std::int64_t layers = 0;
    std::int64_t backward_layers = 0;
  };
  TrainingFlops row_;         // of a row through the layers
  TrainingFlops scored_row_;  // of a row through the head, as often as it is computed
  Attention dense_, sparse_;
  double pair_ = 0;         // of a query and a key that it sees, forward
  double index_pair_ = 0;   // of a query and a key that it ranks
  double taught_pair_ = 0;  // of a query and a key that it sees, by which indexers learn
  std::int64_t block_tokens_ = 1;
  std::int64_t blocks_ = 0;  // that a query sees of a sparse layer
  std::int64_t trained_ = 0;
};

}  // namespace m3
