// What a scripted model says. A test writes its answer into the prompt:
//
//   SCRIPT<<{"pieces": ["</mm:think>", "Hello", 4058], "by": "tokens", "gap_ms": 5}>>END
//
// pieces   strings, and ids of tokens
// by       how strings become tokens: "tokens" (default), control strings as control tokens;
//          "text", control strings spelled with ordinary tokens; "characters" and "bytes", the same
//          with each character or each byte on its own
// finish   "stop" (default): the model's end of turn follows; "length": the last token reaches the
//          limit; "broken": the model's output is no number behind the last token; "gone": the
//          engine ends there
// gap_ms   time between two tokens, 0 by default
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace m3 {

struct Script {
  enum class Ending { kStop, kLength, kBroken, kGone };
  std::vector<TokenId> tokens;
  Ending ending = Ending::kStop;
  double gap_seconds = 0;
};

// The last script in `prompt`. Errors: there is none, or what of it is wrong.
Result<Script> read_script(const std::string& prompt, const Tokenizer& tokenizer);

}  // namespace m3
