#include "apps/speculative_options.h"

#include <CLI/CLI.hpp>

#include "engine/mtp_drafter.h"
#include "engine/ngram_drafter.h"

namespace m3 {

void add_speculative_options(CLI::App& command, SpeculativeOptions& o) {
  command
      .add_option("--speculative", o.kind,
                  "draft tokens and verify several in one step; the answer stays the same. mtp: by "
                  "the model's multi-token prediction modules, ngram: by looking up what followed "
                  "the last words before")
      ->check(CLI::IsMember({"mtp", "ngram", "off"}))
      ->capture_default_str();
  command
      .add_option("--draft-tokens", o.draft_tokens,
                  "drafts a step, at most; fewer where more do not pay")
      ->check(CLI::Range(std::int64_t{1}, kDraftTokensMax))
      ->capture_default_str();
  command.add_option("--draft-model", o.draft_model,
                     "directory of the drafter's weights (mtp: where MODEL has no modules)");
}

Result<ModelOptions> with_draft_model(ModelOptions model, const SpeculativeOptions& o) {
  if (!o.draft_model.empty() && o.kind != "mtp")
    return fail("--draft-model goes with --speculative mtp, not with {}", o.kind);
  model.mtp = o.kind == "mtp";
  model.mtp_model = o.draft_model;
  return model;
}

std::unique_ptr<Drafter> make_drafter(const SpeculativeOptions& o, const LoadedModel& loaded) {
  if (o.kind == "mtp") return std::make_unique<MtpDrafter>(*loaded.model);
  if (o.kind == "ngram") return std::make_unique<NgramDrafter>();
  return nullptr;
}

}  // namespace m3
