#include "apps/speculative_options.h"

#include <CLI/CLI.hpp>

#include "engine/eagle3_drafter.h"
#include "engine/mtp_chain_drafter.h"
#include "engine/ngram_drafter.h"
#include "model/eagle3_checkpoint.h"

namespace m3 {

void add_speculative_options(CLI::App& command, SpeculativeOptions& o) {
  CLI::Option* kind =
      command
          .add_option(
              "--speculative", o.kind,
              "draft tokens and verify several in one step; the answer stays the same. mtp: by "
              "the model's multi-token prediction modules, eagle3: by a draft model, ngram: by "
              "looking up what followed the last words before")
          ->check(CLI::IsMember({"mtp", "eagle3", "ngram", "off"}))
          ->capture_default_str();
  command
      .add_option("--draft-tokens", o.draft_tokens,
                  "drafts a step, at most; fewer where more do not pay")
      ->check(CLI::Range(std::int64_t{1}, kDraftTokensMax))
      ->needs(kind)
      ->capture_default_str();
  command
      .add_option("--draft-model", o.draft_model,
                  "directory of the EAGLE3 draft model, or of MTP modules in place of MODEL's own")
      ->needs(kind);
}

Result<ModelOptions> with_draft_model(ModelOptions model, const SpeculativeOptions& o) {
  const bool eagle3 = o.kind == "eagle3";
  model.mtp = o.kind == "mtp";
  if (!o.draft_model.empty() && !model.mtp && !eagle3)
    return fail("--draft-model goes with --speculative mtp or eagle3, not with {}", o.kind);
  if (o.draft_model.empty() && eagle3)
    return fail("--speculative eagle3 needs --draft-model, the directory of the draft model");
  if (model.mtp) model.mtp_model = o.draft_model;
  return model;
}

Result<std::unique_ptr<Drafter>> make_drafter(const SpeculativeOptions& o,
                                              const LoadedModel& loaded) {
  const Model& model = *loaded.model;
  if (o.kind == "eagle3") {
    M3_TRY(auto draft_model,
           load_eagle3(o.draft_model, model.config(), model.weights(), model.backend()));
    return std::make_unique<Eagle3Drafter>(model, std::move(draft_model));
  }
  if (o.kind == "mtp") return make_mtp_drafter(model);
  if (o.kind == "ngram") return std::make_unique<NgramDrafter>();
  return std::unique_ptr<Drafter>();
}

}  // namespace m3
