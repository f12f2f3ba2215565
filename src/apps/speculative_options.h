// Which drafter an answer is decoded with.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "apps/model_options.h"
#include "engine/drafter.h"

namespace m3 {

struct SpeculativeOptions {
  std::string kind = "off";  // or "mtp", "eagle3", "ngram"
  std::int64_t draft_tokens = 4;
  std::string draft_model;  // directory, or ""
};

// --speculative, --draft-tokens and --draft-model.
void add_speculative_options(CLI::App& command, SpeculativeOptions& options);

// `model` with what the drafter needs of it. Errors: a --draft-model that the drafter has no use
// for, or lacks.
Result<ModelOptions> with_draft_model(ModelOptions model, const SpeculativeOptions& options);

// Null without one. `loaded`, which outlives it, was loaded with with_draft_model(). Errors: a
// draft model that cannot be read or belongs to another model.
Result<std::unique_ptr<Drafter>> make_drafter(const SpeculativeOptions& options,
                                              const LoadedModel& loaded);

}  // namespace m3
