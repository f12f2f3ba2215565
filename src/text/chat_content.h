// The parts of a chat turn: content, reasoning, tool calls and tool results (spec: chat-and-api
// §2.5). Each function appends to a prompt what the released template prints.
#pragma once

#include "base/result.h"
#include "text/json.h"
#include "text/prompt.h"

namespace m3 {

// Python's idea of true: not null, false, 0, "", [] or {}.
bool is_truthy(const Json& value);

// The content of any message but a tool's: a string as it is; of a list the texts, the placeholders
// of images and videos, and bare strings, without separators; nothing for null and other parts.
void add_visible_text(Prompt& prompt, const Json& content);

struct AssistantText {
  Prompt reasoning;
  Prompt content;
};
// `reasoning_content` when it is a string; else the content is split at its think tags, which then
// belong to the template. (`a</mm:think>b</mm:think>c` loses `b`, as in the template.)
AssistantText assistant_text(const Json& message);

// The block of tool calls. Errors: not a list; a call without a name or without an object of
// arguments.
Status add_tool_calls(Prompt& prompt, const Json& calls);

// The content of a tool message: a string as it is; of a list what each element has as `output` or
// `text`, placeholders, and anything else as Python prints it. Errors: neither string, list, object
// nor null.
Status add_tool_content(Prompt& prompt, const Json& content);

}  // namespace m3
