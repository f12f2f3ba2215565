// One answer, from the engine's tokens to text.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "text/detokenizer.h"
#include "text/stop.h"

namespace m3 {

struct TerminalAnswer {
  std::vector<SampledToken> tokens;
  std::string text;                         // what was shown; empty without a tokenizer
  std::string finish_reason;                // "stop", "length" or "cancelled"
  double prompt_seconds = 0;                // until the first token
  double answer_seconds = 0;                // from the first token to the last
  std::int64_t prompt_tokens_computed = 0;  // the rest was in the cache already
};

struct TerminalAnswerOptions {
  const Tokenizer* tokenizer = nullptr;          // null: no text
  std::vector<std::string> stop;                 // stop strings
  std::function<void(const std::string&)> show;  // each new piece of text; may be empty
  std::function<bool()> cancelled;               // asked once a step; may be empty
  std::function<void(std::int64_t, std::int64_t)> prompt_progress =
      {};  // tokens read; may be empty
};

// "21 of 34 drafts were right"; empty where nothing was drafted.
std::string draft_summary(std::span<const Acceptance::Count> places);

// Runs the engine until sequence `id` has its answer. It must be the only one that runs. Errors:
// the model's output is not a number.
Result<TerminalAnswer> read_terminal_answer(Engine& engine, SequenceId id,
                                            std::int64_t prompt_tokens,
                                            const TerminalAnswerOptions& options);

}  // namespace m3
