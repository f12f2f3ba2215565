// What the whole output of a request has to be, over token ids from the first one generated (spec:
// chat-and-api §5.4, §6.1, §6.2, §8.6).
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "grammar/control_ids.h"
#include "grammar/matcher.h"

namespace m3 {

struct OutputRules {
  // How the prompt ended (§6.1).
  enum class Begin { kStart, kReasoning, kContent };
  Begin begin = Begin::kStart;
  std::shared_ptr<const Grammar> content;  // of the content; null: free text
  std::shared_ptr<const Grammar> tools;    // of a block of calls; null: nothing is known about it
  // With tools: whether the output has to be a block of calls. If not, a block is one way to answer
  // beside `content`, and may come behind free text when there is no `content`.
  bool tools_required = false;
};

// Reasoning is free. What follows it obeys the grammars, and behind what they describe only the
// turn's end is left. While something is still due, the turn cannot end. A block of calls that
// opens inside reasoning ends it (§5.3). Control tokens are known by their ids: markers that are
// spelt out of ordinary tokens are text to the constraint.
//
// Ask before every draw, tell after it. Not for several threads at once; copies are independent,
// one for each choice of a request.
class OutputConstraint {
 public:
  // The vocabulary outlives the constraint. Errors: its tokenizer lacks a control token; tools are
  // required and not given.
  static Result<OutputConstraint> make(const OutputRules& rules, const Vocabulary& vocabulary);

  // Whether the next token is constrained; if so, `bits` (at least vocabulary.mask_words() words)
  // are those that may come, the turn's end among them where it may come, and at least one. If not,
  // `bits` stay as they are.
  bool allowed(std::span<std::uint64_t> bits);
  // Goes on with this token. False: allowed() forbids it, and nothing has changed.
  bool accept(TokenId id);
  // The turn has ended.
  bool is_done() const { return phase_ == Phase::kDone; }

 private:
  enum class Phase {
    kStart,
    kReasoning,
    kContent,  // nothing of it yet, or free text
    kGrammar,  // inside of what content_ or tools_ describes
    kDone,
  };
  OutputConstraint(const OutputRules& rules, const Vocabulary& vocabulary, const ControlIds& ids);

  bool is_due() const { return content_.has_value() || tools_required_; }
  void allow_content(std::span<std::uint64_t> bits);
  void allow_reasoning(std::span<std::uint64_t> bits) const;
  bool accept_free(TokenId id);
  bool accept_reasoning(TokenId id);
  bool accept_grammar(TokenId id);
  void enter_block();

  const Vocabulary* vocabulary_;
  ControlIds ids_;
  bool tools_required_;
  std::optional<Matcher> content_, tools_;  // those that are still possible
  Phase phase_;
  bool behind_name_space_ = false;  // outside of grammars: the last token was the namespace's
};

}  // namespace m3
