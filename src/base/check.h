// Our own mistakes stop the program where they are, with the values in the message.
#pragma once

#include <fmt/core.h>

namespace m3 {

// Prints the failed condition and the message to stderr, then aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const std::string& message);

}  // namespace m3

// M3_CHECK(condition, "format", values...): for what the program itself guarantees. What the world
// sends us (files, requests) is reported as a Result instead.
#define M3_CHECK(condition, ...)                                                      \
  do {                                                                                \
    if (!(condition)) [[unlikely]]                                                    \
      ::m3::check_failed(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)); \
  } while (false)
