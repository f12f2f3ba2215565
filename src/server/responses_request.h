// Requests of OpenAI's responses API, translated into chat completions' form (spec: chat-and-api
// §8.9).
#pragma once

#include "server/fields.h"

namespace m3 {

// Errors: what needs the server to remember earlier responses, and tools that it would have to run.
ApiResult<Json> chat_from_responses(const Json& request);

// The fields of a request that its response repeats.
Json responses_echo(const Json& request);

}  // namespace m3
