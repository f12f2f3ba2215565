// Guesses at the next tokens, which one step of the model then verifies together.
//
// A draft changes the speed and never the text: the engine draws every token from the model's own
// logits, at the place where decoding without drafts would draw it, and keeps a draft only where
// it is that draw.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampler.h"
#include "engine/schedule.h"
#include "model/activations.h"
#include "model/batch.h"
#include "model/cache.h"
#include "model/splice.h"
#include "model/watch.h"

namespace m3 {

inline constexpr std::int64_t kDraftTokensMax = 32;

// One sequence of a step whose tokens have been drawn.
struct DraftJob {
  SequenceId sequence = 0;
  bool decoding = false;       // its next step verifies; else it reads its prompt or is done
  std::int64_t count = 0;      // drafts wanted, only where it is decoding
  std::int64_t slot = 0;       // of its first row
  std::int64_t first_row = 0;  // of the batch
  std::int64_t rows = 0;       // those that belong to it now: rejected drafts are left out
  // Prompt and answer so far. tokens[slot + rows] follows the last row; where drafts are wanted it
  // is the last token, which has no row yet.
  std::span<const std::int32_t> tokens;
  const SplicePlan& media;              // of the prompt
  std::span<const std::int32_t> pages;  // with room for `count` rows after the last token's
  const SamplingParams& sampling;
  const TokenHistory& history;
  std::int32_t adapter = -1;  // that the sequence runs with
};

// A step that is verified, and what it ran in, which the next step reuses.
struct VerifiedStep {
  const Batch& batch;
  const PagedCache& cache;
  ActivationArena& arena;
  std::vector<DraftJob> jobs;
};

class Drafter {
 public:
  virtual ~Drafter() = default;

  // What its own cache takes for each page of the model's.
  virtual std::int64_t page_bytes() const { return 0; }

  // Called once, by the engine that it is to draft for: with the cache whose pages jobs speak of,
  // and the most rows and sequences of a step. Errors: no memory.
  virtual Status attach(const PagedCache& /*cache*/, std::int64_t /*rows*/,
                        std::int64_t /*sequences*/) {
    return {};
  }

  // Asks for every row's hidden state after the final norm, which `arena` then holds.
  virtual bool needs_final_hidden() const { return false; }
  // Looks on while the model computes a step; null: nobody does.
  virtual Watch* watch() { return nullptr; }

  // Called after every step. Returns for each job at most `count` ids of the vocabulary, the first
  // of which would follow its last token; maybe fewer, maybe none.
  virtual std::vector<std::vector<std::int32_t>> draft(const VerifiedStep& step) = 0;

  // The sequence is gone.
  virtual void forget(SequenceId /*sequence*/) {}
};

}  // namespace m3
