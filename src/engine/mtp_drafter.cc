#include "engine/mtp_drafter.h"

#include <utility>

#include "base/check.h"

namespace m3 {

MtpDrafter::MtpDrafter(const Model& model) : model_(model) {
  M3_CHECK(model.mtp_modules() > 0, "a model without MTP modules");
}

std::vector<std::vector<std::int32_t>> MtpDrafter::draft(const VerifiedStep& step) {
  if (step.jobs.empty()) return {};
  ChainOutputs first = run_verified(step);
  Tensor hidden = first.hidden;
  const auto run = [&](ChainRows rows, std::int64_t drafted) -> ChainOutputs {
    const MtpOutputs outputs = model_.forward_mtp({.module = drafted % model_.mtp_modules(),
                                                   .hidden = hidden,
                                                   .sources = std::move(rows.sources)},
                                                  std::move(rows.batch), step.cache, step.arena);
    hidden = outputs.hidden;
    return {outputs.hidden, outputs.logits};
  };
  return draft_chains(step, first, run, sampler_);
}

// Every module over all verified rows, so that each has its keys and values of them. The first goes
// last: its outputs are what the first drafts come from.
ChainOutputs MtpDrafter::run_verified(const VerifiedStep& step) const {
  ChainRows rows = verified_rows(step);
  const std::vector<std::int32_t> outputs = std::exchange(rows.batch.outputs, {});
  MtpInput input{.hidden = step.arena.activations().final_hidden,
                 .sources = std::move(rows.sources)};
  for (input.module = model_.mtp_modules() - 1; input.module > 0; --input.module)
    model_.forward_mtp(input, rows.batch, step.cache, step.arena);
  rows.batch.outputs = outputs;
  const MtpOutputs first = model_.forward_mtp(input, std::move(rows.batch), step.cache, step.arena);
  return {first.hidden, first.logits};
}

}  // namespace m3
