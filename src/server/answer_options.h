// What all protocols ask of an answer alike: lengths, sampling, stops.
#pragma once

#include "engine/request.h"
#include "server/fields.h"
#include "server/server_options.h"

namespace m3 {

constexpr int kLogprobsMax = 20;  // probable tokens that are told with each

struct AnswerOptions {
  std::string model;                       // the name of the model that answers
  std::int32_t adapter = -1;               // as Request has it
  std::optional<std::int64_t> max_tokens;  // absent: what the context has room for
  std::int64_t min_tokens = 0;
  SamplingParams sampling;
  int prompt_logprobs = -1;  // as Request has it
  bool prompt_only = false;  // no answer: only what the model thinks of the prompt
  std::int64_t choices = 1;
  std::vector<std::string> stop;
  std::vector<std::int32_t> stop_ids;  // the client's
  std::vector<std::vector<std::int32_t>> bad_words;
  bool include_stop = false;
  bool ignore_eos = false;
  bool skip_special_tokens = true;
  bool stream = false;
  bool include_usage = false;     // in a stream: a last chunk with it
  bool continuous_usage = false;  // in a stream: in every chunk
  bool limits_ids = false;        // the client says which ids may be drawn
  std::string user;               // whose request it is
};

// Errors: a field of another kind or out of its range, and fields that change the answer in a way
// that this server does not know.
ApiResult<AnswerOptions> read_answer_options(const Json& request, const ServedModel& model,
                                             const ServerOptions& options);

// The model that a request names: ours, or an adapter of it.
struct NamedModel {
  std::string name;
  std::int32_t adapter = -1;
};
// Errors: 404.
ApiResult<NamedModel> named_model(const Json& request, const ServedModel& model);

// An engine's request for this prompt. `choice` sets its draws apart from its neighbours'. Errors:
// a prompt that leaves no room for an answer.
ApiResult<Request> make_request(std::vector<std::int32_t> prompt, const AnswerOptions& options,
                                const ServedModel& model, std::int64_t choice);

}  // namespace m3
