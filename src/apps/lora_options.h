// What commands ask about adapters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/lora.h"
#include "model/lora_files.h"

namespace CLI {
class App;
}

namespace m3 {

// A new adapter, as `m3 train` is asked for one.
struct NewLoraOptions {
  std::vector<std::string> groups;  // names; none: no adapter
  std::vector<std::string> rank = {"8"};
  std::vector<std::string> alpha = {"32"};
  std::string names = "transformers";
  double dropout = 0;
  std::uint64_t seed = 0;
};

// --lora GROUPS, --rank, --alpha, --lora-dropout, --lora-names and --lora-seed.
void add_new_lora_options(CLI::App& command, NewLoraOptions& options);

// Errors: an unknown group, one without a rank or alpha, a rank or alpha for a group that is not
// adapted or out of range, dropout of experts.
Result<LoraOptions> new_lora(const NewLoraOptions& options);
LoraNames lora_names(const NewLoraOptions& options);

// Which weights an adapter changes: a line for each kind, rank and alpha, and their sum.
std::string lora_table(const Lora& lora);

}  // namespace m3
