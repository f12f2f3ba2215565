// What a schema asks of a value, in the terms in which grammars are written.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "grammar/decimal.h"
#include "grammar/grammar.h"
#include "grammar/regex.h"

namespace m3 {

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

// An expression that a text has to match.
struct TextRule {
  Regex regex;
  bool whole;       // as a whole, or anywhere in it
  std::string key;  // equal rules have equal keys
};

struct StringPlan {
  std::uint64_t length_min = 0, length_max = kNoLimit;  // in characters
  std::vector<TextRule> rules;                          // all of them
};

struct NumberPlan {
  struct Bound {
    Decimal value;
    bool exclusive;
  };
  bool integer = false;
  std::optional<Bound> least, greatest;
  std::vector<Decimal> divisors;
};

// `prefix[i]` is the i-th item, `rest` each item behind these.
struct ArrayPlan {
  std::vector<NodeId> prefix;
  NodeId rest;
  std::uint64_t min = 0, max = kNoLimit;
};

struct ObjectPlan {
  struct Member {
    std::string name;
    NodeId value;
    bool required;
  };
  // Members that the schema does not name: their names match one rule and none of the others.
  struct Extra {
    std::optional<TextRule> rule;
    std::vector<TextRule> others;
    NodeId value;
  };
  std::vector<Member> members;
  std::vector<Extra> extras;
};

}  // namespace m3
