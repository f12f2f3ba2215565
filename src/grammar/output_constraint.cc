#include "grammar/output_constraint.h"

#include <algorithm>

#include "base/check.h"

namespace m3 {

Result<OutputConstraint> OutputConstraint::make(const OutputRules& rules,
                                                const Vocabulary& vocabulary) {
  if (rules.tools_required && rules.tools == nullptr)
    return fail("a call is required, but there is no tool to call");
  M3_TRY(const ControlIds ids, find_control_ids(vocabulary.tokenizer()));
  return OutputConstraint(rules, vocabulary, ids);
}

OutputConstraint::OutputConstraint(const OutputRules& rules, const Vocabulary& vocabulary,
                                   const ControlIds& ids)
    : vocabulary_(&vocabulary), ids_(ids), tools_required_(rules.tools_required) {
  // A block that is required leaves no room for other content.
  if (rules.content != nullptr && !tools_required_) content_.emplace(rules.content, vocabulary);
  if (rules.tools != nullptr) tools_.emplace(rules.tools, vocabulary);
  switch (rules.begin) {
    case OutputRules::Begin::kStart:
      phase_ = Phase::kStart;
      break;
    case OutputRules::Begin::kReasoning:
      phase_ = Phase::kReasoning;
      break;
    case OutputRules::Begin::kContent:
      phase_ = Phase::kContent;
      break;
  }
}

bool OutputConstraint::allowed(std::span<std::uint64_t> bits) {
  M3_CHECK(bits.size() >= vocabulary_->mask_words(), "a set of {} words", bits.size());
  if (phase_ != Phase::kGrammar && phase_ != Phase::kDone && !is_due()) return false;
  std::fill(bits.begin(), bits.end(), 0);
  switch (phase_) {
    case Phase::kStart:
      set_bit(bits, ids_.think_begin);
      set_bit(bits, ids_.think_end);
      allow_content(bits);
      break;
    case Phase::kReasoning:
      allow_reasoning(bits);
      break;
    case Phase::kContent:
    case Phase::kGrammar:
      allow_content(bits);
      break;
    case Phase::kDone:
      set_bit(bits, ids_.turn_end);
      break;
  }
  return true;
}

void OutputConstraint::allow_content(std::span<std::uint64_t> bits) {
  for (auto* matcher : {&content_, &tools_}) {
    if (!matcher->has_value()) continue;
    (*matcher)->allow(bits);
    if ((*matcher)->can_end()) set_bit(bits, ids_.turn_end);
  }
}

void OutputConstraint::allow_reasoning(std::span<std::uint64_t> bits) const {
  const auto all = vocabulary_->all();
  std::copy(all.begin(), all.end(), bits.begin());
  clear_bit(bits, ids_.turn_end);
  // A block would end the reasoning, and where it may not come nothing could follow.
  if (behind_name_space_ && !tools_) clear_bit(bits, ids_.tool_call_begin);
}

bool OutputConstraint::accept(TokenId id) {
  switch (phase_) {
    case Phase::kStart:
      if (id == ids_.think_begin || id == ids_.think_end) {
        phase_ = id == ids_.think_begin ? Phase::kReasoning : Phase::kContent;
        return true;
      }
      return is_due() ? accept_grammar(id) : accept_free(id);
    case Phase::kReasoning:
      return accept_reasoning(id);
    case Phase::kContent:
      return is_due() ? accept_grammar(id) : accept_free(id);
    case Phase::kGrammar:
      return accept_grammar(id);
    case Phase::kDone:
      return id == ids_.turn_end;
  }
  return false;
}

// Free text: a block of calls may open in it, the turn may end, and some models think again.
bool OutputConstraint::accept_free(TokenId id) {
  phase_ = Phase::kContent;
  const bool opens_block = behind_name_space_ && id == ids_.tool_call_begin;
  behind_name_space_ = id == ids_.name_space;
  if (id == ids_.turn_end) phase_ = Phase::kDone;
  if (id == ids_.think_begin) phase_ = Phase::kReasoning;
  if (opens_block && tools_) enter_block();
  return true;
}

bool OutputConstraint::accept_reasoning(TokenId id) {
  const bool opens_block = behind_name_space_ && id == ids_.tool_call_begin;
  if (is_due() && (id == ids_.turn_end || (opens_block && !tools_))) return false;
  if (is_due() && !vocabulary_->tokenizer().has_string(id)) return false;
  behind_name_space_ = id == ids_.name_space;
  if (id == ids_.turn_end) phase_ = Phase::kDone;
  if (id == ids_.think_end || opens_block) phase_ = Phase::kContent;
  if (opens_block && tools_) enter_block();
  return true;
}

bool OutputConstraint::accept_grammar(TokenId id) {
  if (id == ids_.turn_end) {
    const bool may_end = (content_ && content_->can_end()) || (tools_ && tools_->can_end());
    if (may_end) phase_ = Phase::kDone;
    return may_end;
  }
  const bool in_content = content_ && content_->accept(id);
  const bool in_tools = tools_ && tools_->accept(id);
  if (!in_content && !in_tools) return false;
  if (!in_content) content_.reset();
  if (!in_tools) tools_.reset();
  phase_ = Phase::kGrammar;
  return true;
}

// The two tokens that open a block have been accepted outside of its grammar.
void OutputConstraint::enter_block() {
  const bool begins = tools_->accept(ids_.name_space) && tools_->accept(ids_.tool_call_begin);
  M3_CHECK(begins, "a grammar of calls that does not begin with a block");
  content_.reset();
  phase_ = Phase::kGrammar;
}

}  // namespace m3
