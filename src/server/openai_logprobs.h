// What of tokens' probabilities OpenAI's forms tell (spec: chat-and-api §8.5).
#pragma once

#include <span>

#include "engine/sampler.h"
#include "text/json.h"
#include "text/tokenizer.h"

namespace m3 {

// {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}
Json chat_logprobs(std::span<const SampledToken> tokens, const Tokenizer& tokenizer);

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"}; `offset` is the first token's, in
// characters of the text, and moves on. `skip_special_tokens`: these have no place in the text.
Json completion_logprobs(std::span<const SampledToken> tokens, const Tokenizer& tokenizer,
                         bool skip_special_tokens, std::int64_t& offset);

// Unicode characters of a text.
std::int64_t characters_of(std::string_view text);

Json token_ids(std::span<const SampledToken> tokens);

}  // namespace m3
