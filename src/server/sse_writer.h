// The part of streaming writers that all protocols share: the head, which goes out with the first
// event, and signs of life.
#pragma once

#include "server/collected_answer.h"

namespace m3 {

class SseWriter : public AnswerWriter {
 public:
  SseWriter(std::shared_ptr<HttpReply> reply, AnswerLabel label)
      : reply_(std::move(reply)), label_(std::move(label)) {}

 protected:
  void send(const Json& data, const std::string& name = "") { write(sse_event(data, name)); }
  void write(const std::string& text) {
    if (std::exchange(begun_, true)) {
      reply_->write(text);
    } else {
      HttpAnswer head = sse_head();
      head.body = text;
      reply_->begin(std::move(head));
    }
  }
  void close() { reply_->end(); }
  // Before the first event an error is an ordinary answer.
  bool begun() const { return begun_; }
  void answer(const ApiError& error, const Json& body) { reply_->send(error_answer(error, body)); }
  const AnswerLabel& label() const { return label_; }

 private:
  std::shared_ptr<HttpReply> reply_;
  AnswerLabel label_;
  bool begun_ = false;
};

}  // namespace m3
