// Whether and which tools an answer calls (spec: chat-and-api §5.4).
#pragma once

#include "server/fields.h"

namespace m3 {

struct ToolChoice {
  enum class Mode { kNone, kAuto, kRequired, kNamed };
  Mode mode = Mode::kAuto;
  std::string name;      // of kNamed
  bool parallel = true;  // several calls in one answer
};

// From "tool_choice" and "parallel_tool_calls" of a request with these normalised tools (null or a
// list). Errors: another kind of choice, a name that no tool has, a demand without tools.
ApiResult<ToolChoice> read_tool_choice(const Json& request, const Json& tools);

// The old fields "functions" and "function_call" as "tools" and "tool_choice".
ApiResult<Json> with_modern_tools(Json request);

}  // namespace m3
