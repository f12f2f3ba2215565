// What else a step may lower beside the loss of tokens, and what became of it.
#pragma once

#include "train/expert_loads.h"

namespace m3 {

struct SideLosses {
  // Added for every MoE layer: this times its load balance (GradientOps::balance()), weighted by
  // rows where a step is computed in several parts. 0: none.
  double balance = 0;
  // Added for every sparse layer that is trained, by its indexer alone: the mean divergence of rows
  // and heads (GradientOps::divergence()).
  bool indexer = false;
};

// Of the parts of a step so far.
struct SideSums {
  explicit SideSums(const Model& model) : loads(model) {}

  ExpertLoads loads;
  double balance = 0;        // Σ rows * load balance, of layers
  double balanced_rows = 0;  // Σ rows
  double divergence = 0;     // Σ of rows, heads and layers
  double divergence_count = 0;
  double overlap = 0, mass = 0;  // the same, where there was a choice of blocks
  double choice_count = 0;
};

}  // namespace m3
