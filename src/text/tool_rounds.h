// Matches tool results with the calls they answer. The template ignores ids: to the model, the
// first result answers the first call, so results are put in that order (spec: chat-and-api §2.8,
// point 4).
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "text/json.h"

namespace m3 {

// One round at a time: an assistant turn with calls, then its results.
class ToolRounds {
 public:
  // A new assistant turn with these (normalised) calls, perhaps none. The last round is finished.
  void begin(const Json& calls);

  // `message` is the client's, `result` what is to be kept of it. The answered call is the one with
  // the message's `tool_call_id` or, for want of one, the first open call of its `name`.
  // Errors: no such call, or it has its result already.
  Status answer(const Json& message, Json result);

  // The round has calls, and one of them its result.
  bool any_answered() const;

  // Ends the round and appends its results to `turns`. Errors: a call without a result.
  Status finish(Json::array_t& turns);

 private:
  struct Call {
    std::string id, name;
    Json result;  // null until there is one
  };
  std::vector<Call> calls_;
};

}  // namespace m3
