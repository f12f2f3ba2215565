// Which tokens run next: several sequences in one process, decode and prefill in the same steps.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "engine/pages.h"
#include "engine/sampler.h"
#include "engine/speculation.h"
#include "model/model.h"
#include "model/splice.h"

namespace m3 {

struct EngineOptions {
  std::int64_t context_tokens = 0;  // tokens that all sequences together may hold in the cache
  std::int64_t step_rows = 2048;    // rows of one step at most; prefill is cut to fit
  std::int64_t sequences = 16;      // sequences that run at the same time
  std::int64_t draft_tokens = 0;    // that a drafter may add to a sequence's step, at most
  std::function<double()> seconds = steady_seconds;  // by which the engine finds what drafts cost
};

struct Request {
  std::vector<std::int32_t> prompt;
  std::int64_t max_tokens = 0;  // at least 1
  SamplingParams sampling;
  std::vector<std::int32_t> stop_ids;  // the answer ends after one of these, which is reported too
  SplicePlan media = {};               // of the prompt
};

// kBroken: the model gave no number to draw from; the event's token has no id.
enum class Finish { kNo, kStop, kLength, kBroken };

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

  // What start() and resume() refuse: an empty prompt, an id outside the vocabulary, sampling
  // parameters out of range, or more tokens than the cache or the position table can ever hold.
  Status check(const Request& request) const;

  // Queues a sequence. Errors: as check().
  Result<SequenceId> start(Request request);

  // Goes on with a finished sequence under a new prompt, which usually begins with what the cache
  // holds: the common beginning is not computed again. Errors: as check().
  Status resume(SequenceId id, Request request);

  // Ends the answer now. The cache keeps what it has for resume(), until others need the room.
  void stop(SequenceId id);
  // Forgets the sequence and frees its pages.
  void release(SequenceId id);

  // True when no sequence has work left.
  bool idle() const;
  // Computes one batch. Returns the tokens that it gave, in order of their sequences; none while
  // prompts are still being read.
  std::span<const TokenEvent> step();

  // Tokens of the sequence whose K/V are in the cache.
  std::int64_t cached_tokens(SequenceId id) const { return sequences_.at(id).cached; }
  std::int64_t context_tokens() const { return pages_.pages() * cache_.page_tokens(); }
  // Of the sequence's latest answer, by place in a step's drafts; empty without a drafter.
  std::span<const Acceptance::Count> acceptance(SequenceId id) const {
    return speculation_.acceptance(id);
  }

 private:
  struct Sequence {
    std::vector<std::int32_t> tokens;  // prompt, then answer
    std::int64_t cached = 0;           // leading tokens whose K/V are stored
    std::int64_t answer_begin = 0;
    Request request;
    TokenHistory history;
    std::vector<std::int32_t> pages;
    bool running = false;
    bool waiting = false;  // for pages
  };

  // What one sequence has in a step.
  struct Member {
    SequenceId id;
    std::int64_t slot;       // of its first row
    std::int64_t first_row;  // of the batch
    std::int64_t rows;
    std::int64_t first_output;  // the logits of its last `outputs` rows are there from here on
    std::int64_t outputs;
  };

  Engine(const Model& model, PagedCache cache, const EngineOptions& options,
         std::unique_ptr<Drafter> drafter);
  std::int64_t pages_for(const Request& request) const;
  void begin(SequenceId id, Request request);
  void reclaim(std::int64_t count, const Sequence& keep);
  void admit();
  std::int64_t running() const;
  std::int64_t rows_for_drafts() const;
  std::vector<Member> compose(Batch& batch) const;
  void add_rows(const Sequence& sequence, std::span<const std::int32_t> drafts, Member& member,
                Batch& batch) const;
  void advance(const Member& member, const Tensor& logits);
  std::int32_t draw(SequenceId id, const float* logits);
  void speculate(const Batch& batch, const std::vector<Member>& members);
  DraftJob draft_job(const Member& member) const;

  const Model& model_;
  PagedCache cache_;
  PageAllocator pages_;
  EngineOptions options_;
  ActivationArena arena_;
  Sampler sampler_;
  Speculation speculation_;
  std::map<SequenceId, Sequence> sequences_;  // in order of arrival
  SequenceId next_id_ = 0;
  std::vector<TokenEvent> events_;
};

}  // namespace m3
