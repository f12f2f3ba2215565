// The ids of the control tokens that shape an output (spec: chat-and-api §1.4, §4, §6).
#pragma once

#include "base/result.h"
#include "text/tokenizer.h"

namespace m3 {

struct ControlIds {
  TokenId turn_end;
  TokenId name_space;  // stands before every tag of a tool call
  TokenId tool_call_begin, tool_call_end;
  TokenId think_begin, think_end;
};

// Errors: the tokenizer lacks one of them.
Result<ControlIds> find_control_ids(const Tokenizer& tokenizer);

}  // namespace m3
