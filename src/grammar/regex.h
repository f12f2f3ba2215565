// Regular expressions as JSON Schema's `pattern` and clients' `regex` write them: a subset of
// ECMAScript's, by characters of Unicode.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "grammar/code_points.h"

namespace m3 {

struct Regex {
  static constexpr std::uint32_t kUnlimited = std::numeric_limits<std::uint32_t>::max();
  enum class Kind {
    kSet,       // one character out of `set`
    kSequence,  // `parts`, one behind another; none: the empty text
    kEither,    // one of `parts`
    kRepeat,    // parts[0], `min` to `max` times
    kBegin,     // ^
    kEnd,       // $
  };
  Kind kind = Kind::kSequence;
  CodePointSet set;
  std::vector<Regex> parts;
  std::uint32_t min = 0, max = 0;
};

// Understands literals, . \d \w \s and their opposites, \t \n \r \f \v \0 \xHH \uHHHH \u{H...},
// classes, groups (also (?:...) and named ones), |, * + ? {n} {n,} {n,m} (a lazy ? behind them
// means the same here), ^ and $ wherever they stand. Errors: what is no expression, and what is not
// understood: look-around, back references, \b, \p, inline flags; nesting beyond 100 groups;
// repetitions beyond 100,000; more than 64 KiB. They name the byte.
Result<Regex> parse_regex(std::string_view pattern);

// The text itself.
Regex literal_regex(std::string_view text);
Regex sequence_regex(std::vector<Regex> parts);
// Any number of any characters.
Regex anything_regex();

}  // namespace m3
