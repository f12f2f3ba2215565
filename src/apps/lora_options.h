// What commands ask about adapters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/lora.h"
#include "model/lora_files.h"
#include "train/training_work.h"

namespace CLI {
class App;
}

namespace m3 {

// An adapter that `m3 train` is asked for: a new one, or one from files to go on with.
struct NewLoraOptions {
  std::vector<std::string> groups;  // names
  std::string adapter;              // directory of the one to go on with; "": a new one
  std::vector<std::string>
      rank;  // as typed; what it does not say: the default, or as the files have it
  std::vector<std::string> alpha;
  std::string names;
  double dropout = 0;
  std::uint64_t seed = 0;

  bool any() const { return !groups.empty() || !adapter.empty(); }
};

// --lora GROUPS, --adapter, --rank, --alpha, --lora-dropout, --lora-names and --lora-seed.
void add_new_lora_options(CLI::App& command, NewLoraOptions& options);
// The last five mean nothing without one of the first two: throws what CLI11 reports.
void expect_adapter(const CLI::App& command);

// Of a new one. Errors: an unknown group, a rank or alpha for a group that is not adapted or out of
// range, dropout of experts alone.
Result<LoraOptions> new_lora(const NewLoraOptions& options);

// The adapter that training begins with, of a model of this config. Errors: those of new_lora(),
// Lora::create(), load_lora() and lora_to_train(); groups, ranks or alphas that are not those of
// the files.
Result<Lora> lora_to_begin_with(const NewLoraOptions& options, const Config& config);
// The matrices that it would adapt, for a plan: no tensor of a new adapter is made. Errors: as
// above.
Result<AdaptedMatrices> matrices_to_adapt(const NewLoraOptions& options, const Config& config);
// The names under which the adapter is saved: those of --lora-names, or else those that peft reads
// where its modules fit them. Errors: they do not fit the names that were given.
Result<LoraNames> lora_names(const NewLoraOptions& options, const Lora& lora, const Config& config);

// What is otherwise than one might expect from the options, a line each: dropout that experts do
// not have, names that were chosen because others do not fit.
std::string lora_notes(const NewLoraOptions& options, const Lora& lora, LoraNames names);

// Which weights an adapter changes: a line for each kind, rank and alpha, and their sum.
std::string lora_table(const Lora& lora);

}  // namespace m3
