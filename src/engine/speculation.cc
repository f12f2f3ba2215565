#include "engine/speculation.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"

namespace m3 {

using std::ssize;

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Speculation::Speculation(std::unique_ptr<Drafter> drafter, std::int64_t draft_tokens,
                         std::function<double()> seconds)
    : drafter_(std::move(drafter)),
      draft_tokens_(draft_tokens),
      seconds_(std::move(seconds)),
      everyone_(draft_tokens) {}

void Speculation::begin(SequenceId id) {
  if (!on()) return;
  records_.insert_or_assign(id, Record{.acceptance = everyone_.fresh(), .drafts = {}});
}

void Speculation::forget(SequenceId id) {
  if (!on()) return;
  records_.erase(id);
  drafter_->forget(id);
}

std::span<const std::int32_t> Speculation::drafts(SequenceId id) const {
  if (!on()) return {};
  return records_.at(id).drafts;
}

void Speculation::judged(SequenceId id, std::int64_t judged, std::int64_t accepted) {
  if (judged == 0) return;
  records_.at(id).acceptance.saw(judged, accepted);
  everyone_.saw(judged, accepted);
}

void Speculation::begin_step() {
  if (on()) step_begin_ = seconds_();
}

void Speculation::finish_step(VerifiedStep step, bool plain, std::int64_t rows_max) {
  if (!on()) return;
  const double end = seconds_();
  if (plain) length_.saw_step(step.batch.rows(), draft_seconds_ + end - step_begin_);
  choose_lengths(step.jobs, rows_max);
  auto drafts = drafter_->draft(step);
  M3_CHECK(drafts.size() == step.jobs.size(), "{} drafts for {} sequences", drafts.size(),
           step.jobs.size());
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    M3_CHECK(ssize(drafts[i]) <= step.jobs[i].count, "{} drafts where {} were asked for",
             drafts[i].size(), step.jobs[i].count);
    records_.at(step.jobs[i].sequence).drafts = std::move(drafts[i]);
  }
  draft_seconds_ = seconds_() - end;
}

void Speculation::choose_lengths(std::vector<DraftJob>& jobs, std::int64_t rows_max) {
  std::vector<DraftRoom> decoding;
  std::vector<DraftJob*> whose;
  for (DraftJob& job : jobs) {
    if (!job.decoding) continue;
    decoding.push_back({&records_.at(job.sequence).acceptance, std::min(job.count, draft_tokens_)});
    whose.push_back(&job);
  }
  if (decoding.empty()) return;
  const auto lengths = length_.choose(decoding, rows_max);
  for (std::size_t i = 0; i < lengths.size(); ++i) whose[i]->count = lengths[i];
}

std::span<const Acceptance::Count> Speculation::acceptance(SequenceId id) const {
  if (!on()) return {};
  return records_.at(id).acceptance.counts();
}

}  // namespace m3
