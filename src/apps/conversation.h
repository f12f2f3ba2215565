// From messages to token ids.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "input/media_input.h"
#include "text/chat.h"
#include "text/tokenizer.h"

namespace m3 {

// A part of a message: a picture ("image") or a clip ("video").
Json media_part(const std::string& kind, const std::string& address);

// A user's message: `media` parts first, then the text.
Json user_message(const std::string& text, Json media = Json::array());

// A file with a list of messages as an OpenAI client sends them, or an object with `messages`,
// `tools` and the thinking controls of such a request. The result asks for an answer. Errors: not
// JSON, or what normalise_messages() refuses.
Result<ChatInput> read_messages_file(const std::string& path);

// A conversation that grows at its end, as ids. What the model wrote stays as the ids that it drew,
// so that the cache of one turn serves the next, whatever another reading of its text would give.
class Conversation {
 public:
  // Reader and tokenizer outlive the conversation. `system` may be empty.
  Conversation(MediaReader& reader, const Tokenizer& tokenizer, std::string system,
               std::string thinking_mode);

  // Adds a user's message, whose parts name `inputs`. Returns the prompt of the whole conversation
  // up to the model's turn. Errors: counts that differ; the conversation is then as before.
  Result<std::vector<TokenId>> ask(Json message, std::span<const MediaInput> inputs);
  // Where the media go in that prompt: those of the conversation, and the same `inputs` encoded.
  // Errors: what MediaReader::encode() refuses; retract() then.
  Result<SplicePlan> look(std::span<const MediaInput> inputs,
                          const std::function<bool()>& cancelled);
  // Adds the model's answer: the ids drawn, with or without the end of turn, and their text.
  void answer(const std::vector<TokenId>& ids, const std::string& text);
  // Takes the last question back, when it could not be answered.
  void retract();
  // Forgets everything but the settings.
  void clear();

 private:
  ChatInput input() const;

  using Media = std::vector<std::shared_ptr<const EncodedMedia>>;

  MediaReader& reader_;
  const Tokenizer& tokenizer_;
  std::string system_;
  std::string thinking_mode_;
  Json messages_ = Json::array();
  std::vector<TokenId> ids_;    // of the conversation up to the end of the model's last turn
  Media media_;                 // in them
  std::vector<TokenId> asked_;  // what ask() returned, and the media in it
  Media asked_media_;
};

}  // namespace m3
