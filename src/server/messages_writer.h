// Answers in the form of Anthropic's messages API (spec: chat-and-api §8.8).
#pragma once

#include "server/answer_writer.h"

namespace m3 {

struct MessagesForm {
  AnswerLabel label;
  bool stream = false;
};

std::unique_ptr<AnswerWriter> make_messages_writer(std::shared_ptr<HttpReply> reply,
                                                   MessagesForm form);

}  // namespace m3
