// What the engine's next step computes: a pure function of what runs, what waits and how many pages
// are left.
//
//  - Whoever decodes has a row in every step, so no prompt, however long, makes an answer stall.
//    Drafts take rows that are left.
//  - Prompts share `prefill_rows` evenly, the nearly read ones first, so that a short one beside a
//    long one is soon answered. A long step is one in which answers stand still, so the caller
//    makes `prefill_rows` small while anybody decodes (engine/prefill_pace.h).
//  - A sequence is admitted when its whole text fits into the pages that are left, with a page to
//    grow for everybody who runs. Those that had to give way come first, then the first of the
//    client that has been served least. Nobody overtakes a large one that waits for room.
//  - Where the answers outgrow the pages, the sequence that came last gives way: it gives its pages
//    back, waits, and is computed again. The one that came first never does, and one alone always
//    fits (Engine::check()), so that all end.
#pragma once

#include <cstdint>
#include <vector>

namespace m3 {

using SequenceId = std::int64_t;

struct SequenceView {
  SequenceId id = 0;
  bool running = false;      // else it waits
  bool preempted = false;    // it waits because it had to give way
  std::int64_t tokens = 0;   // prompt, and answer so far
  std::int64_t cached = 0;   // leading tokens that are stored; of one that waits: that would be
  std::int64_t pages = 0;    // that it holds; of one that waits: that it would share
  std::int64_t idle = 0;     // of one that waits: of those, counted in `available`
  std::int64_t alone = 0;    // of one that runs: pages available again when it gives way
  std::int64_t drafts = 0;   // that it has, for this step
  std::int64_t client = 0;   // whose request it is
  double client_served = 0;  // what that client's requests have had, in any unit
};

struct StepView {
  std::vector<SequenceView> sequences;  // in order of arrival
  std::int64_t available = 0;           // pages
  std::int64_t page_tokens = 1;
  std::int64_t step_rows = 1;
  std::int64_t prefill_rows = 1;
  std::int64_t sequences_max = 1;  // that run at the same time
};

struct StepPlan {
  // In this order: these give back all their pages and wait,
  std::vector<SequenceId> preempt;
  // these take what the tree has of them and grow to all their tokens,
  std::vector<SequenceId> admit;
  // and these rows are computed, after growing to hold them; a sequence at most once.
  struct Rows {
    SequenceId id;
    std::int64_t rows;    // drafts included
    std::int64_t drafts;  // fewer than it has, perhaps
  };
  std::vector<Rows> rows;
};

StepPlan plan_step(const StepView& view);

}  // namespace m3
