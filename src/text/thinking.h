// How a request asks for thinking (spec: chat-and-api §3).
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "text/json.h"

namespace m3 {

// The template's thinking mode, "enabled", "disabled" or "adaptive", or nothing when the request
// leaves it to the server. In this order: chat_template_kwargs.thinking_mode, thinking.type,
// reasoning_effort or reasoning.effort, chat_template_kwargs.enable_thinking. Fields that are null
// count as absent, unknown efforts as well.
// Errors: a mode that is none of the three; a field of another type; effort "none" beside a request
// to think.
Result<std::optional<std::string>> thinking_mode_from(const Json& request);

}  // namespace m3
