#include "text/normalise.h"

#include <gtest/gtest.h>

#include "text/chat.h"
#include "text/testing.h"

namespace m3 {
namespace {

using testing::error_of;
using testing::value_of;

Result<Json> normalised(std::string_view messages) {
  return normalise_messages(value_of(parse_json(messages)));
}

TEST(Normalise, RendersAsTheReference) {
  for (const Json& c : testing::cases("wire_cases.jsonl")) {
    ChatInput input;
    auto messages = normalise_messages(c["wire"]);
    if (find_member(c, "status") != nullptr) {
      EXPECT_FALSE(messages.has_value()) << c["name"];
      continue;
    }
    input.messages = value_of(std::move(messages));
    if (const Json* tools = find_member(c, "tools"))
      input.tools = value_of(normalise_tools(*tools));
    if (const Json* mode = find_member(c, "thinking_mode")) input.thinking_mode = *mode;
    input.add_generation_prompt = c["add_generation_prompt"];
    const Prompt prompt = value_of(render_chat(input));
    EXPECT_EQ(prompt.text(), c["text"].get<std::string>()) << c["name"];
    if (const Json* ids = find_member(c, "ids_content_plain")) {
      EXPECT_EQ(value_of(testing::small_tokenizer().encode(prompt.text(), prompt.client_ranges())),
                ids->get<std::vector<TokenId>>())
          << c["name"];
    }
  }
}

// What normalising leaves, without the quotes of content that is one text.
std::string summary(std::string_view messages) {
  std::string text;
  for (const Json& message : value_of(normalised(messages))) {
    text += message["role"].get<std::string>() + ":";
    for (const Json& part : message["content"])
      text += part["type"] == "text" ? part["text"].get<std::string>() : python_json(part);
    if (const Json* reasoning = find_member(message, "reasoning_content"))
      text += fmt::format("|{}", reasoning->get<std::string>());
    text += ";";
  }
  return text;
}

TEST(Normalise, LosesNoInstructions) {
  EXPECT_EQ(summary(R"([{"role":"system","content":"A"},{"role":"root","content":"R"},
                        {"role":"developer","content":"B"},{"role":"user","content":"u"}])"),
            "root:R;system:A\n\nB;user:u;");
  EXPECT_EQ(summary(R"([{"role":"system","content":""},{"role":"system","content":"B"},
                        {"role":"user","content":"u"}])"),
            "system:B;user:u;");
  EXPECT_EQ(summary(R"([{"role":"user","content":"u"},{"role":"system","content":"A"},
                        {"role":"assistant","content":"a"},{"role":"root","content":"B"},
                        {"role":"user","content":"v"},{"role":"user","content":"w"}])"),
            "user:u;assistant:a;user:A\n\nB\n\nv;user:w;");
  EXPECT_EQ(summary(R"([{"role":"user","content":"u"},{"role":"system","content":"A"}])"),
            "user:u;user:A;");
  EXPECT_EQ(summary(R"([{"role":"system","content":"A"}])"), "system:A;");
}

TEST(Normalise, KeepsTheFieldsOfMedia) {
  EXPECT_EQ(summary(R"([{"role":"user","content":["a",
                        {"type":"image_url","image_url":{"url":"x"}}]}])"),
            R"(user:a{"type": "image", "image_url": {"url": "x"}};)");
}

TEST(Normalise, FindsReasoning) {
  const auto assistant = [](const std::string& fields) {
    return summary(fmt::format(R"([{{"role":"assistant",{}}}])", fields));
  };
  EXPECT_EQ(assistant(R"("content":[{"type":"thinking","thinking":"r","signature":"s"},
                         {"type":"redacted_thinking","data":"x"},{"type":"text","text":"a"}])"),
            "assistant:a|r;");
  EXPECT_EQ(assistant(R"("reasoning_details":[{"text":"r"},{"type":"x"},{"text":"s"}])"),
            "assistant:|rs;");
  // An empty string would keep the template from splitting the content.
  EXPECT_EQ(assistant(R"("reasoning_content":"","content":"<mm:think>r</mm:think>a")"),
            "assistant:<mm:think>r</mm:think>a;");
}

constexpr std::string_view kTwoCalls = R"({"role":"assistant","tool_calls":[
    {"id":"1","function":{"name":"f","arguments":"{}"}},
    {"id":"2","function":{"name":"g","arguments":{"x":1}}}]})";

std::string round_of(const std::string& results) {
  return fmt::format(R"([{},{}])", kTwoCalls, results);
}

TEST(Normalise, PutsResultsInTheOrderOfTheCalls) {
  EXPECT_EQ(summary(round_of(R"({"role":"tool","tool_call_id":"2","content":"two"},
                                {"role":"system","content":"S"},
                                {"role":"tool","tool_call_id":"1","content":null},
                                {"role":"user","content":"u"})")),
            "assistant:;tool:;tool:two;user:S\n\nu;");
  // The old role has no ids.
  EXPECT_EQ(summary(round_of(R"({"role":"function","name":"g","content":"two"},
                                {"role":"function","name":"f","content":"one"})")),
            "assistant:;tool:one;tool:two;");
}

TEST(Normalise, RefusalsNameTheMessageAndTheField) {
  const auto refused = [](const std::string& messages) { return error_of(normalised(messages)); };
  EXPECT_EQ(refused("{}"), "\"messages\" must be a list, it is an object");
  EXPECT_EQ(refused("[]"), "\"messages\" is empty, at least one is needed");
  EXPECT_EQ(refused("[3]"), "messages[0]: must be an object, it is a number");
  EXPECT_EQ(
      refused("[{}]"),
      "messages[0]: \"role\" is missing, expected root, system, developer, user, assistant or "
      "tool");
  EXPECT_EQ(refused(R"([{"role":3}])"), "messages[0]: \"role\" must be a string");
  EXPECT_EQ(refused(R"([{"role":"critic"}])"),
            "messages[0]: \"role\" must be root, system, developer, user, assistant or tool, it is "
            "\"critic\"");
  EXPECT_EQ(refused(R"([{"role":"user","content":{"a":1}}])"),
            "messages[0]: \"content\" must be a string or a list of parts, it is an object");
  EXPECT_EQ(refused(R"([{"role":"user","content":["a",{"type":"hologram"}]}])"),
            "messages[0]: content[1] has the unknown type \"hologram\"");
  EXPECT_EQ(refused(R"([{"role":"user","content":[{"type":"text"}]}])"),
            "messages[0]: content[0] needs \"text\" that is a string");
  EXPECT_EQ(refused(R"([{"role":"user","content":[{"text":"a"}]}])"),
            "messages[0]: content[0] needs a \"type\"");
  EXPECT_EQ(refused(R"([{"role":"assistant","reasoning":{"a":1}}])"),
            "messages[0]: \"reasoning\" must be a string, it is an object");
  EXPECT_EQ(refused(R"([{"role":"assistant","tool_calls":[{"id":"1"}]}])"),
            "messages[0]: tool_calls[0] needs a function with a \"name\"");
  EXPECT_TRUE(refused(R"([{"role":"assistant","tool_calls":[{"name":"f","arguments":"{"}]}])")
                  .starts_with("messages[0]: tool_calls[0] \"arguments\" are not valid: "
                               "JSON ends at byte 1: "));
  EXPECT_EQ(refused(round_of(R"({"role":"tool","tool_call_id":"3","content":"x"})")),
            "messages[1]: \"tool_call_id\" \"3\" is no call of the assistant message before it");
  EXPECT_EQ(refused(round_of(R"({"role":"tool","content":"x"})")),
            "messages[1]: a tool result needs the \"tool_call_id\" of the call that it answers");
  EXPECT_EQ(refused(round_of(R"({"role":"tool","tool_call_id":"1","content":"x"},
                                {"role":"tool","tool_call_id":"1","content":"x"})")),
            "messages[2]: \"tool_call_id\" \"1\" has a result already");
  EXPECT_EQ(refused(round_of(R"({"role":"tool","tool_call_id":"1","content":"x"},
                                {"role":"user","content":"x"})")),
            "messages[2]: the call \"2\" of the assistant message before has no tool result");
  EXPECT_EQ(refused(fmt::format("[{}]", kTwoCalls)),
            "the call \"1\" of the assistant message before has no tool result");
}

// What is learnt from may end with calls; of a round that has begun, none may be missing.
TEST(Normalise, LastCallsMayBeOpen) {
  const auto read = [](const std::string& messages) {
    return normalise_messages(value_of(parse_json(messages)), LastCalls::kMayBeOpen);
  };
  EXPECT_EQ(value_of(read(fmt::format("[{}]", kTwoCalls))).size(), 1u);
  EXPECT_EQ(error_of(read(round_of(R"({"role":"tool","tool_call_id":"1","content":"x"})"))),
            "the call \"2\" of the assistant message before has no tool result");
  EXPECT_FALSE(read(round_of(R"({"role":"user","content":"x"})")).has_value());
}

TEST(Normalise, ReadsWhatARequestSaysOfAConversation) {
  const auto read = [](std::string_view request) {
    return read_chat_input(value_of(parse_json(request)));
  };
  const ChatInput input = value_of(read(R"({"messages":[{"role":"user","content":"a"}],
      "tools":[{"name":"f"}],"thinking":{"type":"disabled"},"thinking_mode":"enabled"})"));
  EXPECT_EQ(input.messages.size(), 1u);
  EXPECT_EQ(input.tools[0]["function"]["name"], "f");
  EXPECT_EQ(input.thinking_mode, "enabled");
  EXPECT_EQ(error_of(read("{}")), "needs \"messages\"");
  EXPECT_EQ(error_of(read(R"({"messages":[{"role":"user"}],"thinking_mode":"much"})")),
            "thinking_mode must be \"enabled\", \"disabled\" or \"adaptive\", it is \"much\"");
}

TEST(Normalise, WrapsFlatTools) {
  const auto tools = [](std::string_view text) {
    return normalise_tools(value_of(parse_json(text)));
  };
  EXPECT_EQ(python_json(value_of(tools(R"([{"type":"function","name":"f","strict":true}])"))),
            R"([{"type": "function", "function": {"name": "f", "strict": true}}])");
  EXPECT_TRUE(value_of(tools("null")).is_null());
  EXPECT_EQ(error_of(tools("{}")), "\"tools\" must be a list, it is an object");
  EXPECT_EQ(error_of(tools(R"([{"type":"web_search"}])")),
            "tools[0]: must be of type \"function\", it is \"web_search\"");
  EXPECT_EQ(error_of(tools(R"([{"function":{}}])")), "tools[0]: needs a function with a \"name\"");
}

}  // namespace
}  // namespace m3
