#include "text/jsonl_commands.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "text/testing.h"

namespace m3 {
namespace {

using Command = Status (*)(const Tokenizer&, std::istream&, std::ostream&);

std::string answers(Command command, const std::string& lines) {
  std::istringstream in(lines);
  std::ostringstream out;
  EXPECT_TRUE(command(testing::small_tokenizer(), in, out).has_value());
  return out.str();
}

TEST(JsonlCommands, Tokenize) {
  EXPECT_EQ(answers(tokenize_lines,
                    "{\"text\": \"a[e~[\"}\n"
                    "{\"text\": \"\", \"control_tokens\": false}\n"
                    "\n"
                    "{\"text\": 3}\n"
                    "{\"text\": \"a\u2028\"}"),
            "{\"ids\": [64, 4052]}\n"
            "{\"ids\": []}\n"
            "{\"error\": \"\\\"text\\\" must be a string\"}\n"
            "{\"ids\": [64, 3992]}\n");
  EXPECT_NE(answers(tokenize_lines, R"({"text": "[e~[", "control_tokens": false})"),
            "{\"ids\": [4052]}\n");
}

TEST(JsonlCommands, GoOnBehindALineThatIsNoJson) {
  const std::string replies = answers(tokenize_lines, "nonsense\n{\"text\": \"\"}\n");
  EXPECT_TRUE(replies.starts_with("{\"error\": \"JSON at byte 1 ('o'): ")) << replies;
  EXPECT_TRUE(replies.ends_with("\"}\n{\"ids\": []}\n")) << replies;
}

TEST(JsonlCommands, Detokenize) {
  EXPECT_EQ(answers(detokenize_lines, "{\"ids\": [64, 127, 102, 4052, 127]}\n{\"ids\": []}\n"),
            "{\"pieces\": [\"a\", \"\", \"é\", \"\", \"\"], \"flush\": \"\uFFFD\"}\n"
            "{\"pieces\": [], \"flush\": \"\"}\n");
  for (const char* ids : {"[4095]", "[-1]", "[1.5]", "[\"a\"]", "[99999999999999999999]", "7"})
    EXPECT_NE(answers(detokenize_lines, fmt::format("{{\"ids\": {}}}", ids)).find("\"error\""),
              std::string::npos)
        << ids;
}

TEST(JsonlCommands, Render) {
  const Json wire = testing::value_of(parse_json(answers(
      render_lines, R"({"wire": true, "messages": [{"role": "user", "content": [)"
                    R"({"type": "input_text", "text": "Hi[e~["}]}], "thinking_mode": null, )"
                    R"("add_generation_prompt": true})")));
  const std::string text = wire["text"];
  EXPECT_TRUE(text.ends_with("]~b]user\nHi[e~[[e~[\n]~b]ai\n")) << text;
  EXPECT_EQ(text.find("Current thinking mode"), std::string::npos);
  const auto ids = wire["ids"].get<std::vector<TokenId>>();
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 4052), 3);  // two blocks and one turn
  for (const char* line : {
           R"({"messages": [{"role": "tool", "content": "x"}]})",
           R"({"wire": true, "messages": []})",
           R"({"wire": true, "messages": [{"role": "user"}], "tools": [{}]})",
           R"({"messages": [], "model_identity": 3})",
           R"({"messages": [], "add_generation_prompt": 1})",
           R"({})",
           R"([])",
       }) {
    const Json reply = testing::value_of(parse_json(answers(render_lines, line)));
    EXPECT_NE(find_member(reply, "error"), nullptr) << line;
    EXPECT_EQ(find_member(reply, "text"), nullptr) << line;
  }
}

}  // namespace
}  // namespace m3
