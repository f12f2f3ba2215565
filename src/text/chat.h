// The chat template of MiniMax-M3 (spec: chat-and-api §2), native.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/json.h"
#include "text/prompt.h"

namespace m3 {

// What the template reads. Messages are in its own form: `arguments` of tool calls are objects,
// pictures are {"type": "image"}. Those of an OpenAI client go through normalise_messages() first.
struct ChatInput {
  Json messages = Json::array();
  Json tools;  // a list of {"function": {...}}; null or empty: none
  // "enabled", "disabled", "adaptive"; absent means adaptive, any other string no mode at all.
  std::optional<std::string> thinking_mode;
  std::optional<std::string> model_identity;  // in place of the default developer text
  bool add_generation_prompt = false;         // end with the opening of the model's turn
  bool continue_final_message = false;        // end inside the last turn instead of behind it
};

// The prompt, byte for byte as the released template renders it. Marked as the client's are all
// strings out of `messages`, `tools` and `model_identity`; think tags that the template itself
// takes out of an assistant's content are written anew as the template's.
// Errors: a tool message without a call before it (in the template's words); input that the
// template cannot render, naming the message; both of the last two options at once.
Result<Prompt> render_chat(const ChatInput& input);

// Where the model's part of an assistant message is in a rendered conversation.
struct ChatAnswer {
  // Behind what add_generation_prompt would have written there, through the end of the turn.
  TextRange range = {};
  // The turn begins with all of that, its prefilled think tag included. Otherwise (no reasoning
  // while thinking is enabled, or some while it is disabled) the range begins in front of the tag.
  bool as_prompted = true;
};

struct ChatWithAnswers {
  Prompt prompt;
  std::vector<ChatAnswer> answers;  // one for each assistant message
};
// What a model learns from: render_chat(), and which of it the model is to write.
Result<ChatWithAnswers> render_chat_with_answers(const ChatInput& input);

}  // namespace m3
