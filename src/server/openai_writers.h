// Answers in the forms of OpenAI's chat completions and completions (spec: chat-and-api §8.3-8.5).
#pragma once

#include "server/answer_options.h"
#include "server/answer_writer.h"
#include "text/tokenizer.h"

namespace m3 {

struct OpenAiForm {
  AnswerLabel label;
  const Tokenizer* tokenizer = nullptr;
  AnswerOptions options;
  std::int64_t choices = 1;  // of all prompts together
  bool show_reasoning = true;
  bool twice = true;        // reasoning as "reasoning", too
  bool return_ids = false;  // "token_ids" of each choice
  // Of completions: what each choice's text begins with, where the prompt is to be echoed.
  std::vector<std::string> echo = {};
};

std::unique_ptr<AnswerWriter> make_chat_writer(std::shared_ptr<HttpReply> reply, OpenAiForm form);
std::unique_ptr<AnswerWriter> make_completion_writer(std::shared_ptr<HttpReply> reply,
                                                     OpenAiForm form);

Json openai_usage(const Usage& usage);

}  // namespace m3
