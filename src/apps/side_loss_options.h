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

// Sets the trainer's options. Errors: an option that needs trained weights, beside an adapter.
Status use_side_losses(const SideLossOptions& options, bool adapter, TrainerOptions& trainer);

// What a run remembers of the options that are in use.
std::vector<RunFact> side_loss_facts(const SideLossOptions& options);

}  // namespace m3
