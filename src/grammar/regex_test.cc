#include "grammar/regex.h"

#include <gtest/gtest.h>

#include "grammar/testing.h"

namespace m3 {
namespace {

using testing::error_of;
using testing::shared;
using testing::takes;

TEST(Regex, MatchesAsEcmaScriptDoes) {
  struct Case {
    std::string_view pattern;
    std::vector<std::string_view> matched, others;
  };
  for (const Case& c : std::vector<Case>{
           {"", {""}, {"a"}},
           {"abc", {"abc"}, {"ab", "abcd"}},
           {"a|bc|", {"a", "bc", ""}, {"b"}},
           {"a*b+c?", {"b", "aabbc"}, {"a", "ac"}},
           {"a{2}", {"aa"}, {"a", "aaa"}},
           {"a{2,}", {"aa", "aaaa"}, {"a"}},
           {"a{0,2}?b", {"b", "aab"}, {"aaab"}},
           {"a{,2}", {"a{,2}"}, {"a", "aa"}},
           {"{x}", {"{x}"}, {"x"}},
           {"(ab)+(?:c|d)(?<name>e)", {"abce", "ababde"}, {"abe"}},
           {".", {"x", "\u65e5", "\U0001F600"}, {"\n", "\r", "", "xy"}},
           {"[a-c\\d_-]+", {"a1_-", "c"}, {"d", ""}},
           {"[^a-c]", {"d", "\n", "\u65e5"}, {"b", ""}},
           {"[^]", {"\n", "a"}, {""}},
           {"[\\]\\\\]", {"]", "\\"}, {"["}},
           {"\\d\\D\\w\\W\\s\\S", {"1a_- x"}, {"aa_- x", "1a_-xx"}},
           {"\\s", {"\u00a0", "\u3000", "\t"}, {"a"}},
           {"\\x41\\u0042\\u{1F600}\\uD83D\\uDE01", {"AB\U0001F600\U0001F601"}, {"AB"}},
           {"\\.\\*\\/\\$\\-", {".*/$-"}, {"a"}},
           {"\\t\\n\\0", {std::string_view("\t\n\0", 3)}, {"tn0"}},
           {"^a$", {"a"}, {"^a$"}},
           {"a^b", {}, {"ab", "a^b"}},
           {"(^|x)a", {"a", "xa"}, {"ya"}},
           {"[\u65e5-\u672c]", {"\u65e5", "\u6700"}, {"\u65e4"}},
           {"[\u0080-\U0010FFFF]",
            {"\u0080", "\u07ff", "\u0800", "\U00010000", "\U0010FFFF"},
            {"\x7f"}},
       }) {
    const auto grammar = regex_grammar(c.pattern, "regex");
    if (!grammar) {
      EXPECT_TRUE(c.matched.empty()) << c.pattern << ": " << grammar.error().message;
      continue;
    }
    const auto automaton = std::make_shared<const Grammar>(*grammar);
    for (const std::string_view text : c.matched)
      EXPECT_TRUE(takes(automaton, text)) << c.pattern << " / " << text;
    for (const std::string_view text : c.others)
      EXPECT_FALSE(takes(automaton, text)) << c.pattern << " / " << text;
  }
}

TEST(Regex, ErrorsNameTheByte) {
  struct Wrong {
    std::string_view pattern, message;
  };
  for (const Wrong& wrong : std::vector<Wrong>{
           {"a)", "it has a ')' without '(' at byte 1"},
           {"(a", "the group at byte 0 is not closed"},
           {"[a", "the class at byte 0 is not closed"},
           {"[z-a]", "the range at byte 2 has no order"},
           {"*a", "it has nothing to repeat at byte 0"},
           {"a**", "it has nothing to repeat at byte 2"},
           {"a{3,2}", "the repetition at byte 1 has no range"},
           {"a{200000}", "the repetition at byte 1 goes beyond 100000"},
           {"(?!a)", "the group at byte 0 is of a kind that is not supported"},
           {"(?<=a)", "the group at byte 0 is of a kind that is not supported"},
           {"(?i)a", "the group at byte 0 is of a kind that is not supported"},
           {"(a)\\1", "'\\1' at byte 3 is not supported"},
           {"\\bx", "'\\b' at byte 0 is not supported"},
           {"\\p{L}", "'\\p' at byte 0 is not supported"},
           {"a\\", "it ends in a backslash"},
           {"\\x4", "the escape at byte 1 needs more digits"},
           {"\\uD800", "the escape at byte 0 is no character"},
           {"\xFF", "byte 0 is no UTF-8"},
       })
    EXPECT_EQ(error_of(parse_regex(wrong.pattern)), wrong.message) << wrong.pattern;
}

}  // namespace
}  // namespace m3
