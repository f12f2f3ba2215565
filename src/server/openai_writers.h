// Answers in the forms of OpenAI's chat completions and completions (spec: chat-and-api §8.3-8.5).
#pragma once

#include "server/answer_options.h"
#include "server/answer_writer.h"
#include "server/openai_logprobs.h"
#include "text/tokenizer.h"

namespace m3 {

struct OpenAiForm {
  AnswerLabel label;
  const Tokenizer* tokenizer = nullptr;
  AnswerOptions options;
  std::int64_t choices = 1;  // of all prompts together
  bool show_reasoning = true;
  bool twice = true;          // reasoning as "reasoning", too
  bool return_ids = false;    // "token_ids" of each choice, "prompt_token_ids" of each prompt
  bool tokens_by_id = false;  // in logprobs, tokens are called "token_id:17"
  int prompt_logprobs = -1;   // so many for each of the prompt's tokens, as vLLM has it; -1: none
  bool echo = false;          // of completions: a choice's text begins with its prompt
  std::vector<std::vector<std::int32_t>> prompts = {};

  bool logprobs() const { return options.sampling.logprobs >= 0; }
  TokenNames names() const { return {*tokenizer, tokens_by_id}; }
};

std::unique_ptr<AnswerWriter> make_chat_writer(std::shared_ptr<HttpReply> reply, OpenAiForm form);
std::unique_ptr<AnswerWriter> make_completion_writer(std::shared_ptr<HttpReply> reply,
                                                     OpenAiForm form);

Json openai_usage(const Usage& usage);

}  // namespace m3
