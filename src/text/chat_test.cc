#include "text/chat.h"

#include <gtest/gtest.h>

#include "text/testing.h"

namespace m3 {
namespace {

using Ids = std::vector<TokenId>;
using testing::error_of;
using testing::small_tokenizer;
using testing::value_of;

std::optional<std::string> text_member(const Json& c, std::string_view key) {
  const Json* member = find_member(c, key);
  if (member == nullptr) return std::nullopt;
  return member->get<std::string>();
}

ChatInput input_of(const Json& c) {
  ChatInput input;
  input.messages = c["messages"];
  if (const Json* tools = find_member(c, "tools")) input.tools = *tools;
  input.thinking_mode = text_member(c, "thinking_mode");
  input.model_identity = text_member(c, "model_identity");
  input.add_generation_prompt = c["add_generation_prompt"];
  input.continue_final_message = find_member(c, "continue_final_message") != nullptr;
  return input;
}

TEST(Chat, RendersAsTheReleasedTemplate) {
  for (const Json& c : testing::cases("chat_cases.jsonl")) {
    const auto prompt = render_chat(input_of(c));
    if (const Json* error = find_member(c, "error")) {
      EXPECT_EQ(error_of(prompt), error->get<std::string>()) << c["name"];
      continue;
    }
    ASSERT_TRUE(prompt.has_value()) << c["name"] << prompt.error().message;
    EXPECT_EQ(prompt->text(), c["text"].get<std::string>()) << c["name"];
  }
}

TEST(Chat, ControlStringsCountWhereTheTemplateWroteThem) {
  for (const Json& c : testing::cases("chat_cases.jsonl")) {
    if (find_member(c, "error") != nullptr) continue;
    const Prompt prompt = value_of(render_chat(input_of(c)));
    const Ids ids = value_of(small_tokenizer().encode(prompt.text(), prompt.client_ranges()));
    const Json* expected = find_member(c, "ids_content_plain");
    if (expected != nullptr) {
      EXPECT_EQ(ids, expected->get<Ids>()) << c["name"];
    } else {
      EXPECT_EQ(ids, value_of(small_tokenizer().encode(prompt.text(),
                                                       Tokenizer::ControlTokens::kHonoured)))
          << c["name"];
    }
  }
}

Result<Prompt> render(std::string_view messages, std::string_view tools = "null") {
  ChatInput input;
  input.messages = value_of(parse_json(messages));
  input.tools = value_of(parse_json(tools));
  return render_chat(input);
}

// The turns alone, without the two blocks before them.
std::string turns(std::string_view messages) {
  const std::string text = value_of(render(messages)).text();
  return text.substr(text.find("[e~[\n", text.find("developer\n")) + 5);
}

TEST(Chat, PrintsOddContentAsPythonDoes) {
  EXPECT_EQ(turns(R"([{"role":"user","content":7}])"), "]~b]user\n7[e~[\n");
  EXPECT_EQ(turns(R"([{"role":"user","content":{"a":[true,"x"]}}])"),
            "]~b]user\n{'a': [True, 'x']}[e~[\n");
  EXPECT_EQ(turns(R"([{"role":"user","content":[{"type":"text","text":null},{"type":"text"},7]}])"),
            "]~b]user\nNone[e~[\n");
}

// Null content of a tool message crashes the template; it is an empty result here.
TEST(Chat, ToolResultsMayBeNull) {
  EXPECT_NE(turns(R"([{"role":"assistant","tool_calls":[{"name":"f","arguments":{}}]},
                      {"role":"tool","content":null}])")
                .find("<response></response>"),
            std::string::npos);
}

// What the model is to write of a conversation, turn by turn; "!" where it does not begin as it is
// prompted to.
std::vector<std::string> answers(std::string_view messages, std::optional<std::string> mode = {}) {
  const ChatInput input{.messages = value_of(parse_json(messages)), .thinking_mode = mode};
  const ChatWithAnswers chat = value_of(render_chat_with_answers(input));
  EXPECT_EQ(chat.prompt.text(), value_of(render_chat(input)).text());
  std::vector<std::string> found;
  for (const auto& [range, as_prompted] : chat.answers)
    found.push_back((as_prompted ? "" : "!") +
                    chat.prompt.text().substr(range.begin, range.end - range.begin));
  return found;
}

TEST(Chat, KnowsWhatTheModelIsToWrite) {
  constexpr std::string_view kBoth = R"([{"role":"user","content":"a"},
      {"role":"assistant","reasoning_content":"r","content":"b"},{"role":"user","content":"c"},
      {"role":"assistant","content":"d"}])";
  using Texts = std::vector<std::string>;
  const Texts whole = {"<mm:think>r</mm:think>b[e~[", "</mm:think>d[e~["};
  EXPECT_EQ(answers(kBoth), whole);
  EXPECT_EQ(answers(kBoth, "adaptive"), whole);
  EXPECT_EQ(answers(kBoth, "enabled"), (Texts{"r</mm:think>b[e~[", "!</mm:think>d[e~["}));
  EXPECT_EQ(answers(kBoth, "disabled"), (Texts{"!<mm:think>r</mm:think>b[e~[", "d[e~["}));
  EXPECT_EQ(answers(R"([{"role":"user","content":"a"}])"), Texts{});
}

TEST(Chat, RefusesWhatTheTemplateCannotRender) {
  EXPECT_EQ(error_of(render("{}")), "\"messages\" must be a list, it is an object");
  EXPECT_EQ(error_of(render("[1]")), "message 0 must be an object, it is a number");
  EXPECT_EQ(error_of(render("[]", "[{\"name\":\"f\"}]")), "tools[0] has no \"function\"");
  EXPECT_EQ(error_of(render("[]", "\"f\"")), "\"tools\" must be a list, it is a string");
  EXPECT_EQ(error_of(render(R"([{"role":"user"},{"role":"assistant","tool_calls":{"a":1}}])")),
            "message 1: \"tool_calls\" must be a list, it is an object");
  EXPECT_EQ(error_of(render(R"([{"role":"assistant","tool_calls":[{"arguments":{}}]}])")),
            "message 0: tool_calls[0] needs a \"name\" that is a string");
  EXPECT_EQ(error_of(render(R"([{"role":"assistant","tool_calls":[{"name":"f"}]}])")),
            "message 0: tool_calls[0] needs \"arguments\" that are an object, they are missing");
  EXPECT_EQ(
      error_of(render(R"([{"role":"assistant","tool_calls":[{"name":"f","arguments":"{}"}]}])")),
      "message 0: tool_calls[0] needs \"arguments\" that are an object, they are a string");
  EXPECT_EQ(error_of(render(R"([{"role":"assistant","tool_calls":[{"name":"f","arguments":{}}]},
                                {"role":"tool","content":5}])")),
            "message 1: \"content\" must be a string or a list, it is a number");
  ChatInput both;
  both.add_generation_prompt = both.continue_final_message = true;
  EXPECT_FALSE(render_chat(both).has_value());
}

}  // namespace
}  // namespace m3
