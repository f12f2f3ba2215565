// One record of a data file, in whichever form it comes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/chat.h"

namespace m3 {

// A conversation, or a text that stands for itself.
struct TrainingRecord {
  std::optional<ChatInput> chat;
  std::vector<bool> learnt;               // of each assistant message of the conversation
  std::string text;                       // where there is no conversation
  std::vector<std::string> remarks = {};  // record_remarks.h
};

// The form is told by the record's keys, in this order:
//   messages                     OpenAI's; also with `tools` and a request's thinking controls
//   conversations, conversation  ShareGPT's {"from", "value"}, or OpenAI's messages
//   instruction, output          Alpaca's, with `input` and `history`
//   prompt, completion           strings: one exchange; or lists of messages, of which the
//                                completion's are learnt
//   text                         as it stands
// Keys that are null count as absent. Each form but the last may have `system`, a text; `tools`, a
// list or JSON text of one; `image`, `images`, `video` and `videos`: addresses for the parts of
// messages that have none and for "<image>" and "<video>" in their texts. `weight` of an assistant
// message: 0 leaves it out of what is learnt. `thinking_mode`: of conversations that do not say.
// Errors: no known form; a form's key of another kind; preferences between answers (`chosen`,
// `rejected`) or verdicts on them (`label`, true or false), from which nothing here learns; what
// read_chat_input() refuses; a role or weight that is none; more or fewer addresses than places for
// them, where "<image>" of a user's text is a place in all forms but `messages`, and there too if
// the record has a key for addresses; addresses beside a text.
Result<TrainingRecord> read_training_record(Json record,
                                            const std::optional<std::string>& thinking_mode);

}  // namespace m3
