// What `m3 bench --speculative mtp|ngram` has answered.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace m3 {

// The ids of prompts: of the conversations in a file, JSON lines as render_lines() reads them, or
// of a few short questions where `file` is "". Errors: a line that cannot be rendered, and which;
// there is none.
Result<std::vector<std::vector<std::int32_t>>> bench_prompts(const std::string& file,
                                                             const Tokenizer& tokenizer);

}  // namespace m3
