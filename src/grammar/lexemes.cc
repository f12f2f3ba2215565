#include "grammar/lexemes.h"

#include <algorithm>

#include "grammar/dfa_filters.h"

namespace m3 {
namespace {

std::string_view name_of(Spelling spelling) {
  return spelling == Spelling::kJson ? "json" : "plain";
}

Result<Dfa> compiled(const Regex& regex, Spelling spelling, Budget& budget) {
  M3_TRY(const Nfa nfa, build_nfa(regex, spelling, budget));
  return determinise(nfa, budget);
}

Result<NodeId> rule_lexeme(const TextRule& rule, Spelling spelling, GrammarBuilder& builder) {
  return builder.lexeme(fmt::format("rule {} {}", name_of(spelling), rule.key), [&] {
    const Regex any = anything_regex();
    return compiled(rule.whole ? rule.regex : sequence_regex({any, rule.regex, any}), spelling,
                    builder.budget());
  });
}

std::string spelt(std::string_view text, Spelling spelling) {
  return spelling == Spelling::kJson ? json_spelling(text) : std::string(text);
}

std::string bound_key(const std::optional<NumberPlan::Bound>& bound) {
  if (!bound) return "none";
  return fmt::format("{}{}.{}{}", bound->value.negative ? "-" : "", bound->value.whole,
                     bound->value.fraction, bound->exclusive ? "!" : "");
}

std::string key_of(const NumberPlan& plan) {
  std::string key =
      fmt::format("number {} {} {}", plan.integer, bound_key(plan.least), bound_key(plan.greatest));
  for (const Decimal& divisor : plan.divisors)
    key += fmt::format(" {}.{}", divisor.whole, divisor.fraction);
  return key;
}

// The digits that a number may have, before bounds and divisors.
std::string number_pattern(const NumberPlan& plan) {
  std::size_t whole = 18, places = 20;  // behind the first digit; behind the point
  for (const auto& bound : {plan.least, plan.greatest})
    if (bound) {
      whole = std::max(whole, bound->value.whole.size());
      places = std::max(places, bound->value.fraction.size() + 1);
    }
  for (const Decimal& divisor : plan.divisors) places = std::min(places, divisor.fraction.size());
  const std::string digits = fmt::format("[1-9][0-9]{{0,{}}}", whole);
  if (plan.integer || places == 0) return fmt::format("0|-?{}", digits);
  const bool plain = !plan.least && !plan.greatest && plan.divisors.empty();
  return fmt::format("-?(0|{})(\\.[0-9]{{1,{}}})?{}", digits, places,
                     plain ? "([eE][-+]?[0-9]{1,2})?" : "");
}

BoundFilter at_least(const NumberPlan::Bound& bound) {
  return {bound.value, {.less = false, .equal = !bound.exclusive, .greater = true}};
}

BoundFilter at_most(const NumberPlan::Bound& bound) {
  return {bound.value, {.less = true, .equal = !bound.exclusive, .greater = false}};
}

Result<Dfa> number_dfa(const NumberPlan& plan, Budget& budget) {
  M3_TRY(const Regex regex, parse_regex(number_pattern(plan)));
  M3_TRY(Dfa dfa, compiled(regex, Spelling::kPlain, budget));
  if (plan.least) {
    M3_TRY(dfa, filtered(dfa, at_least(*plan.least), budget));
  }
  if (plan.greatest) {
    M3_TRY(dfa, filtered(dfa, at_most(*plan.greatest), budget));
  }
  for (const Decimal& divisor : plan.divisors) {
    M3_TRY(dfa, filtered(dfa, MultipleFilter(divisor), budget));
  }
  return dfa;
}

std::string plain_digits(const Decimal& value) {
  std::string text = value.negative ? "-" : "";
  text += value.whole.empty() ? "0" : value.whole;
  return value.fraction.empty() ? text : text + "." + value.fraction;
}

template <typename Filter>
bool passes(std::string_view text, const Filter& filter) {
  auto state = std::optional(filter.start());
  for (const char c : text) {
    state = filter.step(*state, static_cast<std::uint8_t>(c));
    if (!state) return false;
  }
  return filter.accepts(*state);
}

}  // namespace

namespace {

// ^[set]{min,max}$ as a whole: characters to be counted rather than spread out over states.
struct CountedSet {
  Regex set;
  std::uint64_t min, max;
};

std::optional<CountedSet> counted_set(const StringPlan& plan) {
  if (plan.rules.size() != 1) return std::nullopt;
  const auto& parts = plan.rules[0].regex.parts;
  const bool anchored = plan.rules[0].regex.kind == Regex::Kind::kSequence && parts.size() == 3 &&
                        parts[0].kind == Regex::Kind::kBegin && parts[2].kind == Regex::Kind::kEnd;
  if (!anchored || parts[1].kind != Regex::Kind::kRepeat) return std::nullopt;
  const Regex& repeat = parts[1];
  if (repeat.parts[0].kind != Regex::Kind::kSet) return std::nullopt;
  const std::uint64_t max = repeat.max == Regex::kUnlimited ? kNoLimit : repeat.max;
  return CountedSet{repeat.parts[0], std::max<std::uint64_t>(repeat.min, plan.length_min),
                    std::min(max, plan.length_max)};
}

}  // namespace

Result<NodeId> ruled_text(const StringPlan& plan, Spelling spelling, GrammarBuilder& builder) {
  if (const auto counted = counted_set(plan)) {
    if (counted->min > counted->max) return builder.choice({});
    const std::string name = fmt::format("set {} {}", name_of(spelling), plan.rules[0].key);
    M3_TRY(const NodeId character, builder.lexeme(name, [&] {
      return compiled(counted->set, spelling, builder.budget());
    }));
    return builder.add(RepeatNode{.item = character, .min = counted->min, .max = counted->max});
  }
  std::string key =
      fmt::format("text {} {} {}", name_of(spelling), plan.length_min, plan.length_max);
  for (const TextRule& rule : plan.rules) key += " " + rule.key;
  return builder.lexeme(key, [&]() -> Result<Dfa> {
    M3_TRY(const NodeId first, rule_lexeme(plan.rules[0], spelling, builder));
    Dfa dfa = builder.dfa_of(first);
    for (std::size_t i = 1; i < plan.rules.size(); ++i) {
      M3_TRY(const NodeId next, rule_lexeme(plan.rules[i], spelling, builder));
      const Dfa other = builder.dfa_of(next);
      M3_TRY(dfa, filtered(dfa, DfaFilter(other, DfaFilter::Keep::kAccepted), builder.budget()));
    }
    if (plan.length_min == 0 && plan.length_max == kNoLimit) return dfa;
    return filtered(dfa, LengthFilter(plan.length_min, plan.length_max, spelling),
                    builder.budget());
  });
}

Result<NodeId> extra_names(const Regex& base, const ObjectPlan::Extra& extra,
                           const std::vector<std::string>& taken, Spelling spelling,
                           GrammarBuilder& builder) {
  std::vector<std::string> words;
  std::size_t bytes = 0;
  std::string key = fmt::format("names {}", name_of(spelling));
  if (extra.rule) key += " match " + extra.rule->key;
  for (const TextRule& other : extra.others) key += " miss " + other.key;
  for (const std::string& name : taken) {
    words.push_back(spelt(name, spelling));
    bytes += words.back().size();
    key += fmt::format(" not {} {}", name.size(), name);
  }
  M3_TRY_STATUS(builder.budget().spend(20 * bytes));
  return builder.lexeme(key, [&]() -> Result<Dfa> {
    const auto keep = [&](Dfa& dfa, const TextRule& rule, DfaFilter::Keep which) -> Status {
      M3_TRY(const NodeId lexeme, rule_lexeme(rule, spelling, builder));
      const Dfa other = builder.dfa_of(lexeme);
      M3_TRY(dfa, filtered(dfa, DfaFilter(other, which), builder.budget()));
      return {};
    };
    M3_TRY(Dfa dfa, compiled(base, spelling, builder.budget()));
    if (extra.rule) M3_TRY_STATUS(keep(dfa, *extra.rule, DfaFilter::Keep::kAccepted));
    for (const TextRule& other : extra.others)
      M3_TRY_STATUS(keep(dfa, other, DfaFilter::Keep::kRefused));
    if (words.empty()) return dfa;
    const WordTrie trie(words);
    return filtered(dfa, NotWordsFilter(trie), builder.budget());
  });
}

Result<NodeId> number(const NumberPlan& plan, GrammarBuilder& builder) {
  return builder.lexeme(key_of(plan), [&] { return number_dfa(plan, builder.budget()); });
}

bool fits(const Decimal& value, const NumberPlan& plan) {
  const std::string text = plain_digits(value);
  if (plan.integer && !value.is_integer()) return false;
  if (plan.least && !passes(text, at_least(*plan.least))) return false;
  if (plan.greatest && !passes(text, at_most(*plan.greatest))) return false;
  return std::all_of(plan.divisors.begin(), plan.divisors.end(),
                     [&](const Decimal& divisor) { return passes(text, MultipleFilter(divisor)); });
}

Result<bool> fits(std::string_view text, const StringPlan& plan, GrammarBuilder& builder) {
  if (!passes(text, LengthFilter(plan.length_min, plan.length_max, Spelling::kPlain))) return false;
  for (const TextRule& rule : plan.rules) {
    M3_TRY(const bool match, matches(text, rule, builder));
    if (!match) return false;
  }
  return true;
}

Result<bool> matches(std::string_view text, const TextRule& rule, GrammarBuilder& builder) {
  M3_TRY(const NodeId lexeme, rule_lexeme(rule, Spelling::kPlain, builder));
  return builder.dfa_of(lexeme).accepts(text);
}

std::string json_spelling(std::string_view text) {
  const std::string quoted = python_json(Json(text));
  return quoted.substr(1, quoted.size() - 2);
}

}  // namespace m3
