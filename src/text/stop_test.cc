#include "text/stop.h"

#include <gtest/gtest.h>

namespace m3 {
namespace {

struct Outcome {
  std::string shown;
  std::string matched;
  bool operator==(const Outcome&) const = default;
};

Outcome run(const std::vector<std::string>& stops, std::string_view text, std::size_t step) {
  StopMatcher matcher(stops);
  Outcome outcome;
  for (std::size_t at = 0; at < text.size(); at += step)
    outcome.shown += matcher.feed(text.substr(at, step));
  outcome.shown += matcher.flush();
  outcome.matched = matcher.matched().value_or("");
  return outcome;
}

TEST(StopMatcher, DoesNotDependOnTheCuts) {
  struct Case {
    std::vector<std::string> stops;
    std::string_view text;
    Outcome expected;
  };
  for (const Case& c : {
           Case{{"STOP"}, "hello STOP world", {"hello ", "STOP"}},
           Case{{"STOP"}, "hello STO", {"hello STO", ""}},
           Case{{"aab"}, "aaaab", {"aa", "aab"}},
           Case{{"abcd", "bc"}, "xabcd", {"xa", "bc"}},  // complete first
           Case{{"c", "abc"}, "xabcd", {"x", "abc"}},    // with the same character
           Case{{"\n\n", "User:"}, "a\nUser:", {"a\n", "User:"}},
           Case{{"]<]"}, "]<]]<]", {"", "]<]"}},
           Case{{""}, "text", {"text", ""}},
           Case{{}, "text", {"text", ""}},
       })
    for (std::size_t step = 1; step <= c.text.size(); ++step)
      EXPECT_EQ(run(c.stops, c.text, step), c.expected) << c.text << " by " << step;
}

TEST(StopMatcher, HoldsBackOnlyWhatCouldBegin) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.feed("xE"), "x");
  EXPECT_EQ(matcher.feed("N"), "");
  EXPECT_EQ(matcher.feed("E"), "EN");
  EXPECT_EQ(matcher.feed("ND more"), "");
  EXPECT_EQ(matcher.matched(), "END");
  EXPECT_EQ(matcher.feed("and more"), "");
  EXPECT_EQ(matcher.flush(), "");
}

}  // namespace
}  // namespace m3
