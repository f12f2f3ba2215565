// A regular expression as an automaton over the bytes that spell its texts.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "grammar/budget.h"
#include "grammar/regex.h"

namespace m3 {

// How characters become bytes.
enum class Spelling {
  kPlain,  // UTF-8
  // Inside the quotes of a JSON string. Each character has one spelling, so that texts can be
  // compared as bytes: as it is, or, where JSON forbids that, its short escape, or \u00XX.
  kJson,
};

struct Nfa {
  struct Edge {
    ByteRange bytes;
    std::uint32_t to;
  };
  // A way that costs no byte; some are open only before the first byte or behind the last.
  struct Jump {
    enum class When : std::uint8_t { kAlways, kAtBegin, kAtEnd };
    When when;
    std::uint32_t to;
  };
  struct State {
    std::vector<Edge> edges;
    std::vector<Jump> jumps;
  };
  std::vector<State> states;
  std::uint32_t start = 0, accept = 0;
};

// Accepts the texts that match as a whole. Errors: the budget.
Result<Nfa> build_nfa(const Regex& regex, Spelling spelling, Budget& budget);

}  // namespace m3
