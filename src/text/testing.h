// What the tests of this folder share: the small tokenizer and the captured answers.
#pragma once

#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "text/json.h"
#include "text/tokenizer.h"

namespace m3::testing {

// The value of a result that must not be an error.
template <typename T>
T value_of(Result<T> result) {
  if (!result) {
    ADD_FAILURE() << result.error().message;
    return T{};
  }
  return std::move(*result);
}

inline std::string source_file(const std::string& path) {
  return value_of(read_text_file(std::string(M3_SOURCE_DIR) + "/" + path));
}

// The lines of tests/data/text/NAME.
inline std::vector<Json> cases(const std::string& name) {
  std::vector<Json> found;
  std::istringstream lines(source_file("tests/data/text/" + name));
  for (std::string line; std::getline(lines, line);) found.push_back(value_of(parse_json(line)));
  EXPECT_FALSE(found.empty()) << name;
  return found;
}

inline const Tokenizer& small_tokenizer() {
  static const Result<Tokenizer> loaded =
      Tokenizer::load(std::string(M3_SOURCE_DIR) + "/data/tokenizer");
  if (!loaded) ADD_FAILURE() << loaded.error().message;
  return *loaded;
}

// The message of a result that must be an error.
template <typename T>
std::string error_of(const Result<T>& result) {
  EXPECT_FALSE(result.has_value());
  return result ? "" : result.error().message;
}

}  // namespace m3::testing
