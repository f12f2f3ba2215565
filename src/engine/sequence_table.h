// The engine's sequences and their pages, without a model: who waits, who runs, and which of its
// tokens are stored where.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "engine/page_tree.h"
#include "engine/request.h"
#include "engine/schedule.h"
#include "engine/token_constraint.h"

namespace m3 {

struct Sequence {
  enum class State { kWaiting, kRunning, kDone };

  Request request;
  std::vector<std::int32_t> tokens;  // prompt, then answer
  std::int64_t answer_begin = 0;
  TokenHistory history;
  std::unique_ptr<TokenConstraint> constraint;  // null: any answer
  State state = State::kWaiting;
  bool preempted = false;   // it had to give way, and waits
  bool admitted = false;    // it has been, once
  std::int64_t cached = 0;  // leading tokens that are stored
  std::int64_t reused = 0;  // of the prompt, tokens that were stored when it was first admitted
  // Of the prompt's tokens from the second on, those that the model has been asked about.
  std::vector<SampledToken> scores;
  PageLease lease;
  std::vector<PageText> texts;  // of the leading full pages, as many as matter
  bool given_back = false;      // its pages are others' now

  bool running() const { return state == State::kRunning; }
  std::int64_t answered() const { return static_cast<std::int64_t>(tokens.size()) - answer_begin; }
  // Tokens of the prompt that are still to be scored.
  std::int64_t unscored() const {
    if (request.prompt_logprobs < 0) return 0;
    return answer_begin - 1 - static_cast<std::int64_t>(scores.size());
  }
};

// Rows that a sequence has in a step: of the tokens from `slot` on, the last of them `drafts`.
struct StepRows {
  SequenceId id;
  std::int64_t slot;
  std::int64_t rows;
  std::int64_t drafts;
};

// What happened so far, for who watches the engine.
struct SequenceCounts {
  std::int64_t preemptions = 0;
  std::int64_t prompt_tokens = 0;  // of the prompts that were admitted
  std::int64_t reused_tokens = 0;  // of these, that were stored already
};

class SequenceTable {
 public:
  struct Options {
    std::int64_t pages;
    std::int64_t page_tokens;
    std::int64_t step_rows;
    std::int64_t sequences;  // that run at the same time
  };
  explicit SequenceTable(const Options& options) : options_(options), tree_(options.pages) {}

  // A new sequence, which waits.
  SequenceId add(Request request, std::unique_ptr<TokenConstraint> constraint = nullptr);
  Sequence& at(SequenceId id) { return sequences_.at(id); }
  const Sequence& at(SequenceId id) const { return sequences_.at(id); }
  bool holds(SequenceId id) const { return sequences_.count(id) > 0; }
  // It has no work left, though its pages are still its own.
  void finish(SequenceId id) { at(id).state = Sequence::State::kDone; }
  // It has no work left, and gives its pages back. Full ones stay where others find them.
  void end(SequenceId id);
  // Ends and forgets it.
  void erase(SequenceId id);

  // Decides what the next step computes, and moves pages accordingly. `drafts`: how many each has.
  // Rows are in order: first those of who decodes. Whatever is returned has its pages.
  std::vector<StepRows> begin_step(const std::function<std::int64_t(SequenceId)>& drafts,
                                   std::int64_t prefill_rows);
  // The first `cached` tokens of a running sequence are stored now.
  void stored(SequenceId id, std::int64_t cached);

  const std::map<SequenceId, Sequence>& sequences() const { return sequences_; }
  std::int64_t count(Sequence::State state) const;
  bool anybody_decodes() const;
  const PageTree& pages() const { return tree_; }
  const SequenceCounts& counts() const { return counts_; }
  // Forgets the pages that nobody holds.
  void drop_unused_pages() { tree_.clear(); }

 private:
  StepView view(const std::function<std::int64_t(SequenceId)>& drafts,
                std::int64_t prefill_rows) const;
  std::span<const PageText> findable(const Sequence& s) const;
  void view_running(const Sequence& s, std::int64_t drafts, SequenceView& view) const;
  void view_waiting(const Sequence& s, SequenceView& view) const;
  void preempt(SequenceId id);
  void admit(SequenceId id);
  PageText text_of_page(const Sequence& s, std::int64_t page) const;
  void read_texts(Sequence& s) const;
  double least_served() const;

  // Clients with sequences that wait or run, and what they have had: rows computed. A client that
  // comes back begins where the least served one is, so that nobody saves up.
  struct Client {
    std::int64_t sequences = 0;
    double served = 0;
  };

  Options options_;
  PageTree tree_;
  std::map<SequenceId, Sequence> sequences_;  // in order of arrival
  std::map<std::int64_t, Client> clients_;
  SequenceId next_id_ = 0;
  SequenceCounts counts_;
};

}  // namespace m3
