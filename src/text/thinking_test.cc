#include "text/thinking.h"

#include <gtest/gtest.h>

#include "text/testing.h"

namespace m3 {
namespace {

Result<std::optional<std::string>> mode_of(std::string_view request) {
  return thinking_mode_from(testing::value_of(parse_json(request)));
}

std::string mode(std::string_view request) {
  return testing::value_of(mode_of(request)).value_or("default");
}

TEST(Thinking, EachFieldIsUnderstood) {
  EXPECT_EQ(mode("{}"), "default");
  EXPECT_EQ(mode(R"({"chat_template_kwargs":{"thinking_mode":"enabled"}})"), "enabled");
  EXPECT_EQ(mode(R"({"thinking":{"type":"disabled","budget_tokens":100}})"), "disabled");
  EXPECT_EQ(mode(R"({"reasoning_effort":"none"})"), "disabled");
  EXPECT_EQ(mode(R"({"reasoning_effort":"high"})"), "adaptive");
  EXPECT_EQ(mode(R"({"reasoning_effort":"gigantic"})"), "default");
  EXPECT_EQ(mode(R"({"reasoning":{"effort":"minimal"}})"), "adaptive");
  EXPECT_EQ(mode(R"({"chat_template_kwargs":{"enable_thinking":true}})"), "enabled");
  EXPECT_EQ(mode(R"({"chat_template_kwargs":{"enable_thinking":false}})"), "disabled");
  EXPECT_EQ(mode(R"({"thinking":null,"reasoning_effort":null,"chat_template_kwargs":null})"),
            "default");
}

TEST(Thinking, TheMoreExplicitFieldWins) {
  EXPECT_EQ(mode(R"({"chat_template_kwargs":{"thinking_mode":"adaptive","enable_thinking":false},
                     "thinking":{"type":"disabled"},"reasoning_effort":"none"})"),
            "adaptive");
  EXPECT_EQ(mode(R"({"thinking":{"type":"disabled"},"reasoning_effort":"high"})"), "disabled");
  EXPECT_EQ(mode(R"({"reasoning_effort":"high",
                     "chat_template_kwargs":{"enable_thinking":false}})"),
            "adaptive");
}

TEST(Thinking, RefusesContradictionsAndUnknownModes) {
  for (const std::string_view request :
       {R"({"chat_template_kwargs":{"thinking_mode":"auto"}})", R"({"thinking":{"type":"on"}})",
        R"({"thinking":true})", R"({"reasoning_effort":3})",
        R"({"chat_template_kwargs":{"enable_thinking":"yes"}})",
        R"({"reasoning_effort":"none","thinking":{"type":"enabled"}})",
        R"({"reasoning":{"effort":"none"},"chat_template_kwargs":{"thinking_mode":"enabled"}})"})
    EXPECT_FALSE(mode_of(request).has_value()) << request;
}

}  // namespace
}  // namespace m3
