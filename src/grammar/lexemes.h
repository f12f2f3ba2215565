// Strings and numbers as automata.
#pragma once

#include "grammar/grammar_builder.h"
#include "grammar/plans.h"

namespace m3 {

// The text of a string under its rules (at least one) and lengths. Errors: the budget.
Result<NodeId> ruled_text(const StringPlan& plan, Spelling spelling, GrammarBuilder& builder);

// Names of members that are none of `taken`: `base` restricted by what `extra` asks of them.
// Errors: the budget.
Result<NodeId> extra_names(const Regex& base, const ObjectPlan::Extra& extra,
                           const std::vector<std::string>& taken, Spelling spelling,
                           GrammarBuilder& builder);

// A number as JSON writes it, of so many digits that every reader takes it: up to 19 before the
// point and 20 behind it (more where a bound has more), and an exponent of up to two where there is
// neither a bound nor a divisor. "-0" is no integer. Errors: the budget.
Result<NodeId> number(const NumberPlan& plan, GrammarBuilder& builder);

// Whether a number keeps to the bounds and divisors of a plan.
bool fits(const Decimal& value, const NumberPlan& plan);
// Whether a text keeps to the rules and lengths of a plan. Errors: the budget.
Result<bool> fits(std::string_view text, const StringPlan& plan, GrammarBuilder& builder);
Result<bool> matches(std::string_view text, const TextRule& rule, GrammarBuilder& builder);

// How a text is spelt inside the quotes of a JSON string.
std::string json_spelling(std::string_view text);

}  // namespace m3
