#include "server/collected_answer.h"

namespace m3 {

std::string CollectedChoice::text(OutputEvent::Kind kind) const {
  std::string all;
  for (const CollectedBlock& block : blocks)
    if (block.kind == kind) all += block.text;
  return all;
}

CollectedAnswer::CollectedAnswer(std::shared_ptr<HttpReply> reply, std::int64_t choices,
                                 bool keep_tokens, MakeBody make_body, MakeError make_error)
    : reply_(std::move(reply)),
      choices_(static_cast<std::size_t>(choices)),
      keep_tokens_(keep_tokens),
      make_body_(std::move(make_body)),
      make_error_(std::move(make_error)) {}

void CollectedAnswer::prompt(int choice, std::span<const SampledToken> scores) {
  choices_[static_cast<std::size_t>(choice)].prompt_scores.assign(scores.begin(), scores.end());
}

void CollectedAnswer::token(int choice, const SampledToken& token) {
  if (keep_tokens_) choices_[static_cast<std::size_t>(choice)].tokens.push_back(token);
}

void CollectedAnswer::event(int choice, const OutputEvent& event, const Usage&) {
  using Kind = OutputEvent::Kind;
  auto& blocks = choices_[static_cast<std::size_t>(choice)].blocks;
  if (event.kind == Kind::kCallEnd) return;
  if (event.kind == Kind::kCallBegin) {
    blocks.push_back({Kind::kArguments, "", event.id, event.name});
  } else if (blocks.empty() || blocks.back().kind != event.kind) {
    blocks.push_back({event.kind, event.text});
  } else {
    blocks.back().text += event.text;
  }
}

void CollectedAnswer::choice_end(int choice, const ChoiceEnd& end, const Usage&) {
  choices_[static_cast<std::size_t>(choice)].end = end;
}

void CollectedAnswer::end(const Usage& usage) {
  reply_->send({.body = json_text(make_body_(choices_, usage))});
}

void CollectedAnswer::fail(const ApiError& error) {
  reply_->send(error_answer(error, make_error_(error)));
}

HttpAnswer error_answer(const ApiError& error, const Json& body) {
  HttpAnswer answer{.status = error.status, .body = json_text(body)};
  if (error.retry_after > 0)
    answer.headers.emplace_back("Retry-After", std::to_string(error.retry_after));
  if (!error.allow.empty()) answer.headers.emplace_back("Allow", error.allow);
  if (error.status == 401) answer.headers.emplace_back("WWW-Authenticate", "Bearer");
  return answer;
}

}  // namespace m3
