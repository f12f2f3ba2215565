// Answers in the form of OpenAI's responses API (spec: chat-and-api §8.9).
#pragma once

#include "server/answer_writer.h"

namespace m3 {

struct ResponsesForm {
  AnswerLabel label;
  Json echo;  // fields of the request
  bool stream = false;
};

std::unique_ptr<AnswerWriter> make_responses_writer(std::shared_ptr<HttpReply> reply,
                                                    ResponsesForm form);

}  // namespace m3
