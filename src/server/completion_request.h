// A request for completions, made into what is to be computed and how it is to be told.
#pragma once

#include "server/chat_request.h"

namespace m3 {

struct CompletionRequest {
  AnswerPlan plan;
  OpenAiForm form;  // for make_completion_writer(), without its label
};

// `prompt` is a string, a list of strings, a list of ids, or a list of such lists. Without a
// tokenizer only ids will do, and the answer is told by its "token_ids".
ApiResult<CompletionRequest> read_completion_request(const Json& request, const ServedModel& model,
                                                     const ServerOptions& options);

}  // namespace m3
