// Which tokens run next: several sequences in one process, decode and prefill in the same steps.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "engine/prefill_pace.h"
#include "engine/request.h"
#include "engine/sequence_table.h"
#include "engine/speculation.h"
#include "model/model.h"

namespace m3 {

struct EngineOptions {
  std::int64_t context_tokens = 0;  // tokens that all sequences together may hold in the cache
  std::int64_t step_rows = 2048;    // rows of one step at most; prefill is cut to fit
  std::int64_t sequences = 16;      // sequences that run at the same time
  std::int64_t draft_tokens = 0;    // that a drafter may add to a sequence's step, at most
  double prefill_seconds = 0.5;     // that prompts may add to a step in which others decode
  std::int64_t adapters = 0;        // of the model, which requests may name
  std::function<double()> seconds = steady_seconds;  // the engine's clock
};

// kBroken: the model gave no number to draw from. kDeadline: the request's. Of both, the event's
// token has no id.
enum class Finish { kNo, kStop, kLength, kBroken, kDeadline };

// One new token of one sequence.
struct TokenEvent {
  SequenceId sequence;
  SampledToken token;
  Finish finish;
};

class Engine {
 public:
  // `model` outlives the engine. With a drafter a step may give several tokens of a sequence, the
  // same as without. Errors: no memory for the cache; draft_tokens out of range.
  static Result<std::unique_ptr<Engine>> create(const Model& model, const EngineOptions& options,
                                                std::unique_ptr<Drafter> drafter = nullptr);

  // What start() refuses: an empty prompt, an id outside the vocabulary, sampling parameters out of
  // range, an adapter that the model has not, or more tokens than the cache or the position table
  // can ever hold.
  Status check(const Request& request) const;

  // Queues a sequence, whose answer keeps to `constraint`, if there is one. What others have stored
  // of its beginning is not computed again. Errors: as check().
  Result<SequenceId> start(Request request, std::unique_ptr<TokenConstraint> constraint = nullptr);

  // Ends the answer now.
  void stop(SequenceId id) { table_.end(id); }
  // Forgets the sequence.
  void release(SequenceId id);

  // True when no sequence has work left.
  bool idle() const;
  // Computes one batch. Returns the tokens that it gave, in order of their sequences; none while
  // prompts are still being read.
  std::span<const TokenEvent> step();

  // Tokens of a sequence that runs whose K/V are in the cache.
  std::int64_t cached_tokens(SequenceId id) const { return table_.at(id).cached; }
  // Tokens of its prompt that were there already when it began to run.
  std::int64_t reused_tokens(SequenceId id) const { return table_.at(id).reused; }
  // What the model thought of its prompt's tokens from the second on, where the request asked for
  // it; complete when the first token of the answer is there.
  std::span<const SampledToken> prompt_scores(SequenceId id) const { return table_.at(id).scores; }
  std::int64_t context_tokens() const { return table_.pages().pages() * cache_.page_tokens(); }
  // Who waits and runs, and what they hold.
  const SequenceTable& table() const { return table_; }
  // Forgets what finished sequences have left in the cache.
  void forget_unused() { table_.drop_unused_pages(); }
  // Of the sequence's answer, by place in a step's drafts; empty without a drafter.
  std::span<const Acceptance::Count> acceptance(SequenceId id) const {
    return speculation_.acceptance(id);
  }

 private:
  // What one sequence has in a step.
  struct Member : StepRows {
    std::int64_t first_row;     // of the batch
    std::int64_t first_output;  // the logits of its last `outputs` rows are there from here on
    std::int64_t outputs;
  };

  Engine(const Model& model, PagedCache cache, const EngineOptions& options,
         std::unique_ptr<Drafter> drafter);
  void end_late();
  std::int64_t rows_for_drafts() const;
  Member add_rows(const StepRows& rows, Batch& batch) const;
  bool wants_scores(const Member& member) const;
  void advance(const Member& member, const Tensor& logits);
  void score_prompt(const Batch& batch, const Member& member);
  std::int32_t draw(SequenceId id, const float* logits);
  SampledToken sample(Sequence& s, const float* logits);
  bool limit(Sequence& s);
  void finish(SequenceId id, SampledToken token, Finish finish);
  void speculate(const Batch& batch, const std::vector<Member>& members);
  DraftJob draft_job(const Member& member) const;

  const Model& model_;
  PagedCache cache_;
  EngineOptions options_;
  SequenceTable table_;
  PrefillPace pace_;
  ActivationArena arena_;
  Sampler sampler_;
  Speculation speculation_;
  std::vector<std::uint64_t> allowed_;  // bits of ids
  std::vector<TokenEvent> events_;
};

}  // namespace m3
