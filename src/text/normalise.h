// Messages and tools as OpenAI clients send them, made into what the template takes (spec:
// chat-and-api §2.8). What cannot be understood is refused rather than dropped: each error names
// the message and the field, and is the client's (status 400).
#pragma once

#include "base/result.h"
#include "text/chat.h"
#include "text/json.h"

namespace m3 {

// Whether a conversation may end with calls that nobody has answered, as one does that is to be
// learnt from.
enum class LastCalls { kAnswered, kMayBeOpen };

// `messages` (a list) in the form of ChatInput::messages:
//  - content parts become {"type": "text", "text"} or {"type": "image"|"video", ...}, media with
//    their other fields kept, so that the pictures of a prompt can be collected in order;
//  - arguments of tool calls become objects;
//  - `reasoning`, `reasoning_details` and thinking parts become `reasoning_content`;
//  - the results of a turn's calls are checked and put in the order of the calls;
//  - root and system messages at the head are joined by blank lines, one of each; the template
//    would skip later ones, so these are put before the next user turn, or become one at the end.
Result<Json> normalise_messages(Json messages, LastCalls last_calls = LastCalls::kAnswered);

// `tools` (a list, or null) with each tool in the form {"type": "function", "function": {...}};
// flat ones, {"type": "function", "name", ...}, are wrapped.
Result<Json> normalise_tools(Json tools);

// `messages`, `tools` and the thinking controls (thinking_mode_from(), or `thinking_mode` itself)
// of an object that is like the body of a request.
Result<ChatInput> read_chat_input(const Json& request, LastCalls last_calls = LastCalls::kAnswered);

}  // namespace m3
