#include "engine/mtp_drafter.h"

#include <iterator>

#include "base/check.h"
#include "engine/pages.h"

namespace m3 {
namespace {

// Adds rows of a job from `slot` on, each with the token behind it.
void add_rows(const DraftJob& job, std::int64_t slot, std::span<const std::int32_t> next,
              std::int64_t page_tokens, Batch& batch) {
  const std::int64_t pages = pages_of(slot + std::ssize(next), page_tokens);
  job.media.add_to(batch, slot + 1, std::ssize(next), batch.rows());
  batch.add_sequence(next, slot, job.pages.first(static_cast<std::size_t>(pages)),
                     /*all_outputs=*/false);
}

}  // namespace

MtpDrafter::MtpDrafter(const Model& model) : model_(model) {
  M3_CHECK(model.mtp_modules() > 0, "a model without MTP modules");
}

std::vector<std::vector<std::int32_t>> MtpDrafter::draft(const VerifiedStep& step) {
  std::vector<std::vector<std::int32_t>> drafts(step.jobs.size());
  if (step.jobs.empty()) return drafts;
  MtpOutputs outputs = run_verified(step);
  std::vector<Chain> chains;
  for (std::size_t job = 0; job < step.jobs.size(); ++job)
    if (step.jobs[job].count > 0)
      chains.push_back({.job = job, .source = static_cast<std::int32_t>(chains.size())});
  while (!chains.empty()) {
    std::vector<Chain> longer;
    for (const Chain& chain : chains) {
      const DraftJob& job = step.jobs[chain.job];
      auto& drafted = drafts[chain.job];
      const std::int32_t id = draw(job, std::ssize(drafted), outputs.logits, chain.source);
      if (id < 0) continue;
      drafted.push_back(id);
      if (std::ssize(drafted) < job.count) longer.push_back(chain);
    }
    if (longer.empty()) break;
    outputs = run_drafts(step, longer, drafts, outputs.hidden);
    for (std::size_t i = 0; i < longer.size(); ++i) longer[i].source = static_cast<std::int32_t>(i);
    chains = std::move(longer);
  }
  return drafts;
}

// Every module over all verified rows, so that each has its keys and values of them. The first goes
// last: its outputs, one for each job that drafts, are what the first drafts come from.
MtpOutputs MtpDrafter::run_verified(const VerifiedStep& step) const {
  Batch batch;
  MtpInput input{.hidden = step.arena.activations().final_hidden};
  std::vector<std::int32_t> last_rows;
  for (const DraftJob& job : step.jobs) {
    const auto next = job.tokens.subspan(static_cast<std::size_t>(job.slot + 1),
                                         static_cast<std::size_t>(job.rows));
    add_rows(job, job.slot, next, step.cache.page_tokens(), batch);
    for (std::int64_t i = 0; i < job.rows; ++i)
      input.sources.push_back(static_cast<std::int32_t>(job.first_row + i));
    if (job.count > 0) last_rows.push_back(static_cast<std::int32_t>(batch.rows() - 1));
  }
  for (input.module = model_.mtp_modules() - 1; input.module > 0; --input.module)
    model_.forward_mtp(input, batch, step.cache, step.arena);
  batch.outputs = std::move(last_rows);
  return model_.forward_mtp(input, std::move(batch), step.cache, step.arena);
}

// One row for the last draft of each chain; all have drafted equally many.
MtpOutputs MtpDrafter::run_drafts(const VerifiedStep& step, const std::vector<Chain>& chains,
                                  const std::vector<std::vector<std::int32_t>>& drafts,
                                  const Tensor& hidden) const {
  const std::int64_t drafted = std::ssize(drafts[chains[0].job]);
  Batch batch;
  MtpInput input{.module = drafted % model_.mtp_modules(), .hidden = hidden};
  for (const Chain& chain : chains) {
    const DraftJob& job = step.jobs[chain.job];
    const std::int64_t slot = job.slot + job.rows - 1 + drafted;
    add_rows(job, slot, std::span(drafts[chain.job]).last(1), step.cache.page_tokens(), batch);
    batch.want_last();
    input.sources.push_back(chain.source);
  }
  return model_.forward_mtp(input, std::move(batch), step.cache, step.arena);
}

// With the noise of the very draw that the draft foresees: where the module's logits are those of
// the model, so is the draft, at any temperature.
std::int32_t MtpDrafter::draw(const DraftJob& job, std::int64_t drafted, const Tensor& logits,
                              std::int64_t row) {
  SamplingParams sampling = job.sampling;
  sampling.logprobs = -1;
  const std::span<const float> of_row(logits.row<float>(row),
                                      static_cast<std::size_t>(logits.dim(1)));
  return sampler_.sample(of_row, sampling, job.history, std::ssize(job.tokens) + drafted).id;
}

}  // namespace m3
