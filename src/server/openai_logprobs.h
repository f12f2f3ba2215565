// What of tokens' probabilities OpenAI's forms tell (spec: chat-and-api §8.5).
#pragma once

#include <span>

#include "engine/sampler.h"
#include "text/json.h"
#include "text/tokenizer.h"

namespace m3 {

// How tokens are called: by their text, or as "token_id:17".
struct TokenNames {
  const Tokenizer& tokenizer;
  bool by_id = false;
};

// {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}
Json chat_logprobs(std::span<const SampledToken> tokens, const TokenNames& names);

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"}; `offset` is the first token's, in
// characters of the text, and moves on. `skip_special_tokens`: these have no place in the text. Of
// a token of rank 0 the model was not asked: its logprobs are null.
Json completion_logprobs(std::span<const SampledToken> tokens, const TokenNames& names,
                         bool skip_special_tokens, std::int64_t& offset);
// Appends each list of `more` to that of `logprobs`, both from completion_logprobs().
void append_logprobs(Json& logprobs, const Json& more);

// vLLM's form: null for the prompt's first token, and for each of `scores` {"id": {"logprob",
// "rank", "decoded_token"}} with the token and the `count` most probable ones.
Json prompt_logprobs(std::span<const SampledToken> scores, int count, const Tokenizer& tokenizer);

// Unicode characters of a text.
std::int64_t characters_of(std::string_view text);

Json token_ids(std::span<const SampledToken> tokens);

}  // namespace m3
