#include "engine/draft_chain.h"

#include <iterator>

#include "engine/page_tree.h"

namespace m3 {
namespace {

using Drafts = std::vector<std::vector<std::int32_t>>;

// Where the chain of one job stands.
struct Chain {
  std::size_t job;
  std::int32_t output;  // of the last step
};

// Adds rows of a job from `slot` on, each with the token behind it.
void add_rows(const VerifiedStep& step, const DraftJob& job, std::int64_t slot,
              std::span<const std::int32_t> next, Batch& batch) {
  const std::int64_t pages = pages_of(slot + std::ssize(next), step.cache.page_tokens());
  job.media.add_to(batch, slot + 1, std::ssize(next), batch.rows());
  batch.add_sequence(next, slot, job.pages.first(static_cast<std::size_t>(pages)),
                     /*all_outputs=*/false, job.adapter);
}

// One row for the last draft of each chain; all have drafted equally many.
ChainRows drafted_rows(const VerifiedStep& step, const std::vector<Chain>& chains,
                       const Drafts& drafts) {
  ChainRows rows;
  for (const Chain& chain : chains) {
    const DraftJob& job = step.jobs[chain.job];
    const auto& drafted = drafts[chain.job];
    add_rows(step, job, job.slot + job.rows - 1 + std::ssize(drafted), std::span(drafted).last(1),
             rows.batch);
    rows.batch.want_last();
    rows.sources.push_back(chain.output);
  }
  return rows;
}

}  // namespace

std::int32_t draw_draft(const DraftJob& job, std::int64_t drafted, const Tensor& logits,
                        std::int64_t output, Sampler& sampler) {
  SamplingParams sampling = job.sampling;
  sampling.logprobs = -1;
  const std::span<const float> row(logits.row<float>(output),
                                   static_cast<std::size_t>(logits.dim(1)));
  return sampler.sample(row, sampling, job.history, std::ssize(job.tokens) + drafted).id;
}

ChainRows verified_rows(const VerifiedStep& step) {
  ChainRows rows;
  for (const DraftJob& job : step.jobs) {
    const auto next = job.tokens.subspan(static_cast<std::size_t>(job.slot + 1),
                                         static_cast<std::size_t>(job.rows));
    add_rows(step, job, job.slot, next, rows.batch);
    for (std::int64_t i = 0; i < job.rows; ++i)
      rows.sources.push_back(static_cast<std::int32_t>(job.first_row + i));
    if (job.count > 0) rows.batch.want_last();
  }
  return rows;
}

Drafts draft_chains(const VerifiedStep& step, ChainOutputs outputs, const RunChain& run,
                    Sampler& sampler) {
  Drafts drafts(step.jobs.size());
  std::vector<Chain> chains;
  for (std::size_t job = 0; job < step.jobs.size(); ++job)
    if (step.jobs[job].count > 0)
      chains.push_back({.job = job, .output = static_cast<std::int32_t>(chains.size())});
  for (std::int64_t drafted = 0; !chains.empty(); ++drafted) {
    std::vector<Chain> longer;
    for (const Chain& chain : chains) {
      const DraftJob& job = step.jobs[chain.job];
      const std::int32_t id = draw_draft(job, drafted, outputs.logits, chain.output, sampler);
      if (id < 0) continue;
      drafts[chain.job].push_back(id);
      if (drafted + 1 < job.count) longer.push_back(chain);
    }
    chains = std::move(longer);
    if (chains.empty()) break;
    outputs = run(drafted_rows(step, chains, drafts), drafted + 1);
    for (std::size_t i = 0; i < chains.size(); ++i) chains[i].output = static_cast<std::int32_t>(i);
  }
  return drafts;
}

}  // namespace m3
