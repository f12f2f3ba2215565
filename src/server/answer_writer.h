// An answer as it comes into being, towards a client: one writer a protocol and manner.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "output/output_event.h"
#include "server/api_error.h"
#include "server/http.h"

namespace m3 {

struct Usage {
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;  // of these, that had been computed before
  std::int64_t completion_tokens = 0;
  std::int64_t reasoning_tokens = 0;  // of these

  std::int64_t total() const { return prompt_tokens + completion_tokens; }
};

struct ChoiceEnd {
  std::string reason;  // "stop", "length" or "tool_calls"
  std::optional<std::string> stop_string;
  std::optional<std::int32_t> stop_id;  // of the client's
};

// Calls come from one thread at a time. A choice's tokens and events follow one another; those of
// several choices are mixed.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  // The prompt that a choice answers has been read: what the model thought of its tokens from the
  // second on, where the request asked for it. Of each prompt the first choice alone is told.
  virtual void prompt(int /*choice*/, std::span<const SampledToken> /*scores*/) {}
  // A token was drawn; it becomes part of the events that follow.
  virtual void token(int /*choice*/, const SampledToken& /*token*/) {}
  // `usage` is that of the answer so far.
  virtual void event(int choice, const OutputEvent& event, const Usage& usage) = 0;
  virtual void choice_end(int choice, const ChoiceEnd& end, const Usage& usage) = 0;
  virtual void end(const Usage& usage) = 0;
  // Nothing follows.
  virtual void fail(const ApiError& error) = 0;
  // A sign of life, while nothing comes.
  virtual void ping() {}
};

// What an answer says of itself in every protocol.
struct AnswerLabel {
  std::string id;
  std::string model;
  std::int64_t created = 0;  // seconds since 1970
};

// `prefix` and 24 random hexadecimal digits.
std::string random_id(const std::string& prefix);

// "data: JSON", and before it "event: NAME" where there is one.
std::string sse_event(const Json& data, const std::string& name = "");
// The head of a stream of events.
HttpAnswer sse_head(const std::string& request_id = "");

}  // namespace m3
