#include "grammar/output_constraint.h"

#include <gtest/gtest.h>

#include "grammar/testing.h"

namespace m3 {
namespace {

using Begin = OutputRules::Begin;
using testing::error_of;
using testing::small_tokenizer;
using testing::small_vocabulary;
using testing::value_of;

ControlIds ids() {
  return value_of(find_control_ids(small_tokenizer()));
}

std::shared_ptr<const Grammar> number() {
  return testing::schema(R"({"type":"integer","minimum":1,"maximum":99})");
}

std::shared_ptr<const Grammar> tools() {
  const Json list = value_of(parse_json(R"([{"type":"function","function":{"name":"f"}}])"));
  return testing::shared(tool_grammar(list, {}, ids()));
}

OutputConstraint constraint(const OutputRules& rules) {
  auto made = OutputConstraint::make(rules, small_vocabulary());
  if (!made) ADD_FAILURE() << made.error().message;
  return *made;
}

std::vector<TokenId> encoded(std::string_view text) {
  return value_of(small_tokenizer().encode(text, Tokenizer::ControlTokens::kHonoured));
}

TokenId token(std::string_view text) {
  return small_tokenizer().id_of(text).value();
}

bool allows(OutputConstraint& constraint, std::string_view text) {
  std::vector<std::uint64_t> bits(small_vocabulary().mask_words());
  return !constraint.allowed(bits) || has_bit(bits, token(text));
}

bool is_free(OutputConstraint& constraint) {
  std::vector<std::uint64_t> bits(small_vocabulary().mask_words());
  return !constraint.allowed(bits);
}

// The whole text is taken, each token being allowed before.
bool takes(OutputConstraint constraint, std::string_view text) {
  std::vector<std::uint64_t> bits(small_vocabulary().mask_words());
  for (const TokenId id : encoded(text)) {
    const bool may = !constraint.allowed(bits) || has_bit(bits, id);
    EXPECT_EQ(may, constraint.accept(id)) << text << ", at " << small_tokenizer().bytes(id);
    if (!may) return false;
  }
  return constraint.is_done();
}

constexpr std::string_view kCall =
    "]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name=\"f\">]<]minimax[>[</invoke>\n"
    "]<]minimax[>[</tool_call>";

std::string call(std::string_view before, std::string_view behind = "[e~[") {
  return fmt::format("{}{}{}", before, kCall, behind);
}

TEST(OutputConstraint, ContentBeginsBehindReasoning) {
  const auto start = constraint({.begin = Begin::kStart, .content = number()});
  EXPECT_TRUE(takes(start, "42[e~["));
  EXPECT_TRUE(takes(start, "</mm:think>42[e~["));
  EXPECT_TRUE(takes(start, "<mm:think>Free {text}, and <tool_call>.</mm:think>42[e~["));
  EXPECT_FALSE(takes(start, "Forty-two[e~["));
  EXPECT_FALSE(takes(start, "[e~["));
  EXPECT_FALSE(takes(start, "<mm:think>thoughts[e~["));
  EXPECT_FALSE(takes(start, "<mm:think>x</mm:think>[e~["));
  EXPECT_FALSE(takes(start, "</mm:think></mm:think>42[e~["));
  EXPECT_FALSE(takes(start, "42."));
  EXPECT_FALSE(takes(start, call("")));
  EXPECT_FALSE(takes(start, call("<mm:think>x")));

  const auto reasoning = constraint({.begin = Begin::kReasoning, .content = number()});
  EXPECT_TRUE(takes(reasoning, "thoughts</mm:think>7[e~["));
  EXPECT_FALSE(takes(reasoning, "7[e~["));
  const auto content = constraint({.begin = Begin::kContent, .content = number()});
  EXPECT_TRUE(takes(content, "7[e~["));
  EXPECT_FALSE(takes(content, "<mm:think>"));
}

TEST(OutputConstraint, RequiredCalls) {
  const auto start = constraint({.begin = Begin::kStart, .tools = tools(), .tools_required = true});
  EXPECT_TRUE(takes(start, call("")));
  EXPECT_TRUE(takes(start, call("</mm:think>")));
  EXPECT_TRUE(takes(start, call("<mm:think>I call f.</mm:think>")));
  EXPECT_TRUE(takes(start, call("<mm:think>I call f.")));  // a block ends reasoning
  EXPECT_FALSE(takes(start, call("Sure. ")));
  EXPECT_FALSE(takes(start, call("", "more[e~[")));
  EXPECT_FALSE(takes(start, call("", "")));  // not done before the turn's end
  EXPECT_FALSE(takes(start, "[e~["));
}

TEST(OutputConstraint, CallsArmThemselves) {
  auto auto_tools = constraint({.begin = Begin::kStart, .tools = tools()});
  EXPECT_TRUE(is_free(auto_tools));
  EXPECT_TRUE(takes(auto_tools, "Any text.[e~["));
  EXPECT_TRUE(takes(auto_tools, "[e~["));
  EXPECT_TRUE(takes(auto_tools, call("<mm:think>Hm.</mm:think>Checking.")));
  EXPECT_TRUE(takes(auto_tools, call("<mm:think>Hm.")));
  EXPECT_TRUE(takes(auto_tools, call("Hm.<mm:think>Let me see.</mm:think>")));
  EXPECT_TRUE(takes(auto_tools, "A ]<]minimax[>[ alone, or <tool_call> alone.[e~["));
  EXPECT_FALSE(takes(auto_tools, "x]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name=\"g\">"));
  EXPECT_FALSE(takes(auto_tools, "x]<]minimax[>[<tool_call>[e~["));
  EXPECT_FALSE(takes(auto_tools, call("", " and more")));
}

TEST(OutputConstraint, ContentOrCalls) {
  const auto both = constraint({.begin = Begin::kStart, .content = number(), .tools = tools()});
  EXPECT_TRUE(takes(both, "12[e~["));
  EXPECT_TRUE(takes(both, call("")));
  EXPECT_TRUE(takes(both, call("<mm:think>x</mm:think>")));
  EXPECT_TRUE(takes(both, call("<mm:think>x")));
  EXPECT_FALSE(takes(both, call("12")));
  EXPECT_FALSE(takes(both, "text[e~["));
}

TEST(OutputConstraint, NothingIsAskedWithoutRules) {
  auto none = constraint({});
  EXPECT_TRUE(is_free(none));
  EXPECT_TRUE(takes(none, call("Text, ", "more[e~[")));
}

TEST(OutputConstraint, ReasoningCannotEndTheTurn) {
  auto reasoning = constraint({.begin = Begin::kReasoning, .content = number()});
  EXPECT_FALSE(allows(reasoning, "[e~["));
  EXPECT_TRUE(allows(reasoning, "a"));
  EXPECT_TRUE(allows(reasoning, "</mm:think>"));
  ASSERT_TRUE(reasoning.accept(ids().name_space));
  EXPECT_FALSE(allows(reasoning, "<tool_call>"));
  EXPECT_FALSE(reasoning.accept(ids().tool_call_begin));
  EXPECT_FALSE(reasoning.accept(small_tokenizer().vocab_size()));
}

TEST(OutputConstraint, ChoicesAreIndependent) {
  auto one = constraint({.begin = Begin::kContent, .content = number()});
  OutputConstraint two = one;
  ASSERT_TRUE(one.accept(token("9")));
  ASSERT_TRUE(two.accept(token("1")));
  ASSERT_TRUE(two.accept(token("2")));
  EXPECT_FALSE(allows(two, "3"));
  EXPECT_TRUE(allows(one, "3"));
  ASSERT_TRUE(two.accept(ids().turn_end));
  EXPECT_TRUE(two.is_done());
  EXPECT_FALSE(one.is_done());
  EXPECT_FALSE(two.accept(token("1")));
}

TEST(OutputConstraint, FactoryErrors) {
  EXPECT_EQ(error_of(OutputConstraint::make({.tools_required = true}, small_vocabulary())),
            "a call is required, but there is no tool to call");
}

}  // namespace
}  // namespace m3
