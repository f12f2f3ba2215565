// An answer that is sent as a whole.
#pragma once

#include <functional>

#include "server/answer_writer.h"

namespace m3 {

// What an answer says in one piece: reasoning, content, or (kArguments) a call.
struct CollectedBlock {
  OutputEvent::Kind kind;
  std::string text;
  std::string id = {}, name = {};  // of a call
};

struct CollectedChoice {
  std::vector<CollectedBlock> blocks;       // in order
  std::vector<SampledToken> prompt_scores;  // of a prompt's first choice, where they are told
  std::vector<SampledToken> tokens;
  ChoiceEnd end;

  // The text of all blocks of a kind.
  std::string text(OutputEvent::Kind kind) const;
};

class CollectedAnswer final : public AnswerWriter {
 public:
  using MakeBody = std::function<Json(const std::vector<CollectedChoice>&, const Usage&)>;
  using MakeError = std::function<Json(const ApiError&)>;

  // `keep_tokens`: the body tells of the tokens, too.
  CollectedAnswer(std::shared_ptr<HttpReply> reply, std::int64_t choices, bool keep_tokens,
                  MakeBody make_body, MakeError make_error);

  void prompt(int choice, std::span<const SampledToken> scores) override;
  void token(int choice, const SampledToken& token) override;
  void event(int choice, const OutputEvent& event, const Usage& usage) override;
  void choice_end(int choice, const ChoiceEnd& end, const Usage& usage) override;
  void end(const Usage& usage) override;
  void fail(const ApiError& error) override;

 private:
  std::shared_ptr<HttpReply> reply_;
  std::vector<CollectedChoice> choices_;
  bool keep_tokens_;
  MakeBody make_body_;
  MakeError make_error_;
};

// The answer to a request that failed, with what its status asks for.
HttpAnswer error_answer(const ApiError& error, const Json& body);

}  // namespace m3
