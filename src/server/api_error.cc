#include "server/api_error.h"

#include <algorithm>

namespace m3 {
namespace {

const char* openai_type(const ApiError& error) {
  if (error.too_long) return "exceed_context_size_error";
  switch (error.status) {
    case 401:
    case 403:
      return "authentication_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "unavailable_error";
    default:
      return error.status < 500 ? "invalid_request_error" : "server_error";
  }
}

const char* anthropic_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    default:
      return status < 500 ? "invalid_request_error" : "api_error";
  }
}

// Such integers are binary values here (text/json.h), which nlohmann does not print as numbers.
bool holds_long_integer(const Json& value) {
  if (!value.is_structured()) return value.is_binary();
  return std::any_of(value.begin(), value.end(), holds_long_integer);
}

}  // namespace

Json openai_error(const ApiError& error) {
  return {{"error",
           {{"message", error.message},
            {"type", openai_type(error)},
            {"param", error.param.empty() ? Json() : Json(error.param)},
            {"code", error.status}}}};
}

Json anthropic_error(const ApiError& error) {
  return {{"type", "error"},
          {"error", {{"type", anthropic_type(error.status)}, {"message", error.message}}}};
}

std::string json_text(const Json& value) {
  if (holds_long_integer(value)) return python_json(value);
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace m3
