// The world's mistakes (a truncated file, an impossible request) are values.
#pragma once

#include <fmt/core.h>

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace m3 {

// One sentence for the person who can mend it: what was expected, what was found, where.
struct Error {
  std::string message;
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

// `return fail("shard {} is {} bytes, its header promises {}", ...);` in any function that returns
// a Result.
template <typename... Args>
[[nodiscard]] tl::unexpected<Error> fail(fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected<Error>(Error{fmt::format(format, std::forward<Args>(args)...)});
}

// Passes the error of one Result on from a function that returns another.
template <typename T>
[[nodiscard]] tl::unexpected<Error> pass(Result<T>&& result) {
  return tl::unexpected<Error>(std::move(result).error());
}

}  // namespace m3

#define M3_CONCAT_INNER(a, b) a##b
#define M3_CONCAT(a, b) M3_CONCAT_INNER(a, b)

// M3_TRY(auto x, f()): declares x from the value of f(), or returns its error.
#define M3_TRY(declaration, expression) \
  M3_TRY_INNER(M3_CONCAT(m3_result_, __LINE__), declaration, expression)
#define M3_TRY_INNER(result, declaration, expression)              \
  auto result = (expression);                                      \
  if (!result) return ::tl::unexpected(std::move(result).error()); \
  declaration = std::move(*result)

// M3_TRY_STATUS(f()): returns the error of f(), if there is one.
#define M3_TRY_STATUS(expression)                            \
  do {                                                       \
    if (auto m3_status = (expression); !m3_status)           \
      return ::tl::unexpected(std::move(m3_status).error()); \
  } while (false)
