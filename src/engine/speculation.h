// The engine's drafts: who makes them, how many, and what became of them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "engine/draft_length.h"
#include "engine/drafter.h"

namespace m3 {

// Seconds since some moment.
double steady_seconds();

class Speculation {
 public:
  // Without a drafter, nothing is ever drafted.
  Speculation(std::unique_ptr<Drafter> drafter, std::int64_t draft_tokens,
              std::function<double()> seconds);

  bool on() const { return drafter_ != nullptr; }
  bool needs_final_hidden() const { return on() && drafter_->needs_final_hidden(); }
  Watch* watch() const { return on() ? drafter_->watch() : nullptr; }

  // A new sequence.
  void begin(SequenceId id);
  void forget(SequenceId id);

  // What the next step may verify behind the sequence's last token.
  std::span<const std::int32_t> drafts(SequenceId id) const;
  // Of the sequence's drafts, `judged` were compared with draws and the first `accepted` were them.
  void judged(SequenceId id, std::int64_t judged, std::int64_t accepted);

  void begin_step();
  // Drafts for the step after `step`, in which each job's `count` is what it has room for. `plain`:
  // nobody read a prompt, so its duration tells what a verified row costs.
  void finish_step(VerifiedStep step, bool plain, std::int64_t rows_max);

  // By place in a step's drafts, of the sequence's answer. Empty without a drafter.
  std::span<const Acceptance::Count> acceptance(SequenceId id) const;

 private:
  struct Record {
    Acceptance acceptance;
    std::vector<std::int32_t> drafts;
  };
  void choose_lengths(std::vector<DraftJob>& jobs, std::int64_t rows_max);

  std::unique_ptr<Drafter> drafter_;
  std::int64_t draft_tokens_;
  std::function<double()> seconds_;
  DraftLength length_;
  Acceptance everyone_;  // what a new sequence may expect
  std::map<SequenceId, Record> records_;
  double step_begin_ = 0;
  double draft_seconds_ = 0;  // of the drafts that the next step verifies
};

}  // namespace m3
