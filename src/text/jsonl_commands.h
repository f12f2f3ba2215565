// The commands that answer one JSON line for each JSON line. Lines end in a line feed alone, since
// texts hold other separators; blank lines are skipped. A line that cannot be answered becomes
// {"error": "..."} and the rest goes on.
#pragma once

#include <istream>
#include <ostream>

#include "base/result.h"
#include "text/tokenizer.h"

namespace m3 {

// {"text", "control_tokens"?: bool (true)} -> {"ids"}
Status tokenize_lines(const Tokenizer& tokenizer, std::istream& in, std::ostream& out);

// {"ids"} -> {"pieces", "flush"}: what is visible after each id, and what remains at the end.
Status detokenize_lines(const Tokenizer& tokenizer, std::istream& in, std::ostream& out);

// {"messages", "wire"?, "tools"?, "thinking_mode"?, "model_identity"?, "add_generation_prompt"?,
// "continue_final_message"?} -> {"text", "ids"}. With "wire": true the messages and tools are as an
// OpenAI client sends them. Control strings in them are plain text.
Status render_lines(const Tokenizer& tokenizer, std::istream& in, std::ostream& out);

// Each returns an error only when `in` or `out` fails.

}  // namespace m3
