// A chat request as OpenAI's clients send it, made into what is to be computed and how it is to be
// told (spec: chat-and-api §2.8, §3, §5.4, §8.2). The other protocols' requests are translated into
// this one first.
#pragma once

#include "server/answer.h"
#include "server/openai_writers.h"
#include "text/chat.h"

namespace m3 {

// What a chat template is filled with, for answers, counts and previews alike.
struct RenderedChat {
  ChatInput input;
  Prompt prompt;
  PromptPlan plan;
};

// `messages`, `tools` and what else of `request` the prompt depends on. Media are read, counted and
// preprocessed. Errors name the message or field.
ApiResult<RenderedChat> render_chat_request(const Json& request, const ServedModel& model,
                                            const ServerOptions& options);

struct ChatRequest {
  AnswerPlan plan;
  // For make_chat_writer(), without its label.
  OpenAiForm form;
};

// `call_id_prefix`: what the ids of tool calls begin with.
ApiResult<ChatRequest> read_chat_request(const Json& request, const ServedModel& model,
                                         const ServerOptions& options,
                                         const std::string& call_id_prefix = "call_");

}  // namespace m3
