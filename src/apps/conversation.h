// From messages to token ids.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "text/chat.h"
#include "text/tokenizer.h"

namespace m3 {

// {"role": "user", "content": text}.
Json user_message(const std::string& text);

// A file with a list of messages as an OpenAI client sends them, or an object with `messages`,
// `tools` and the thinking controls of such a request. The result asks for an answer. Errors: not
// JSON, or what normalise_messages() refuses.
Result<ChatInput> read_messages_file(const std::string& path);

// The prompt's ids by the safe rule: control strings count only where the template wrote them.
Result<std::vector<TokenId>> encode_chat(const ChatInput& input, const Tokenizer& tokenizer);

// A conversation that grows at its end, as ids. What the model wrote stays as the ids that it drew,
// so that the cache of one turn serves the next, whatever another reading of its text would give.
class Conversation {
 public:
  // `tokenizer` outlives the conversation. `system` may be empty.
  Conversation(const Tokenizer& tokenizer, std::string system, std::string thinking_mode);

  // Adds a user's message. Returns the ids of the whole conversation up to the model's turn.
  Result<std::vector<TokenId>> ask(const std::string& text);
  // Adds the model's answer: the ids drawn, with or without the end of turn, and their text.
  void answer(const std::vector<TokenId>& ids, const std::string& text);
  // Takes the last question back, when it could not be answered.
  void retract();
  // Forgets everything but the settings.
  void clear();

 private:
  ChatInput input() const;

  const Tokenizer& tokenizer_;
  std::string system_;
  std::string thinking_mode_;
  Json messages_ = Json::array();
  std::vector<TokenId> ids_;    // of the conversation up to the end of the model's last turn
  std::vector<TokenId> asked_;  // what ask() returned
};

}  // namespace m3
