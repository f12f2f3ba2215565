// Options of `m3 train` about routers and the indexer.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "train/run_checkpoint.h"
#include "train/trainer.h"

namespace CLI {
class App;
}

namespace m3 {

struct SideLossOptions {
  double balance = 0;
  double bias_rate = 0;
  std::string load_measures;  // "": none
  std::string indexer;        // "": it is not trained
};

void add_side_loss_options(CLI::App& command, SideLossOptions& options);

// Into the trainer's. Errors: what needs trained weights, and an adapter is trained.
Status use_side_losses(const SideLossOptions& options, bool adapter, TrainerOptions& trainer);

// Of those that are in use.
std::vector<RunFact> side_loss_facts(const SideLossOptions& options);

}  // namespace m3
