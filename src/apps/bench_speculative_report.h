// `m3 bench --speculative`: its options, its samples, and how they are told.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "apps/bench_limits.h"
#include "apps/bench_speculative.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace m3 {

struct SpeculativeBench {
  std::string kind;     // "replay", "wrong", "mtp", "ngram", or "" for no such measurement
  std::string prompts;  // a file of conversations for "mtp" and "ngram"; "": a few of ours
  std::int64_t draft_tokens = 4;
};

// Returns --speculative.
CLI::Option* add_speculative_bench(CLI::App& command, SpeculativeBench& options);

struct SpeculativeRow {
  SpeculativeCase run_case;
  SpeculativeSample median;  // by the ratio of speeds
  MachineLimits around;      // medians of what was measured beside the samples
  int disturbed = 0;         // samples beside which the machine was slower than it can be
};

// The median of several samples. Errors: as SpeculativeRun::create().
Result<SpeculativeRow> measure_speculative(const Model& model, const SpeculativeCase& run_case,
                                           Limits& limits);

void print_speculative_header(const SpeculativeBench& options);
void print_speculative(const SpeculativeRow& row);
nlohmann::ordered_json speculative_json(const SpeculativeRow& row, const SpeculativeBench& options);

}  // namespace m3
