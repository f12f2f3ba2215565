// The fields of one client message, in the template's form (spec: chat-and-api §2.8, points 1-3).
// Each function takes from `message` what it returns. Errors name the field.
#pragma once

#include "base/result.h"
#include "text/json.h"

namespace m3 {

// "content" as a list of parts. A string is one text; null, missing and "" are none. Thinking parts
// are skipped: take_reasoning() has them. Errors: any other kind of content, and parts that are
// neither text, image nor video.
Result<Json> content_parts(Json& message);

// Puts parts behind others with a blank line between them.
void append_paragraph(Json& parts, Json more);

// The reasoning of an assistant message: of `reasoning_content` and `reasoning` the first that is
// not null, else the texts of `reasoning_details`, else the thinking parts of the content. A
// string, or null when there is none.
Result<Json> take_reasoning(const Json& message);

// "tool_calls" as a list of {"id"?, "type", "function": {"name", "arguments": object}}. Arguments
// given as JSON text are read: "" and missing are {}.
Result<Json> take_tool_calls(Json& message);

}  // namespace m3
