// What a client is told when a request cannot be answered (spec: chat-and-api §8.8, §8.10).
#pragma once

#include <string>

#include "base/result.h"
#include "text/json.h"

namespace m3 {

// The status of a request whose client hung up: nobody is told.
constexpr int kClientGone = 499;

struct ApiError {
  int status = 400;
  std::string message;
  std::string param;      // the field that is to blame; empty where there is none
  int retry_after = 0;    // seconds, of 429 and 503
  std::string allow;      // of 405: the methods that there are
  bool too_long = false;  // prompt and answer do not fit the context

  ApiError(int status_code, std::string sentence, std::string field = "")
      : status(status_code), message(std::move(sentence)), param(std::move(field)) {}
  // The request's mistake, as the readers of text and media report it.
  ApiError(Error error)
      : message(std::move(error.message)) {}  // NOLINT(google-explicit-constructor)
};

template <typename T>
using ApiResult = tl::expected<T, ApiError>;
using ApiStatus = ApiResult<void>;

// `return refuse("temperature", "must be a number, it is {}", ...)`: status 400; the message begins
// with the field's name in quotes.
template <typename... Args>
[[nodiscard]] tl::unexpected<ApiError> refuse(std::string field, fmt::format_string<Args...> format,
                                              Args&&... args) {
  std::string message =
      fmt::format("\"{}\" {}", field, fmt::format(format, std::forward<Args>(args)...));
  return tl::unexpected<ApiError>(ApiError(400, std::move(message), std::move(field)));
}

// {"error": {"message", "type", "param", "code"}}
Json openai_error(const ApiError& error);
// {"type": "error", "error": {"type", "message"}}
Json anthropic_error(const ApiError& error);

// JSON as it is sent: without white space; what is no UTF-8 becomes U+FFFD.
std::string json_text(const Json& value);

}  // namespace m3
