// Requests of Anthropic's messages API, translated into OpenAI's form (spec: chat-and-api §8.8).
#pragma once

#include "server/fields.h"

namespace m3 {

// Errors name Anthropic's fields.
ApiResult<Json> chat_from_messages(const Json& request);

}  // namespace m3
