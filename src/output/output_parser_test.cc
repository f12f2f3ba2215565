#include "output/output_parser.h"

#include <gtest/gtest.h>

#include "output/testing.h"

namespace m3 {
namespace {

using testing::line_of;
using testing::small_tokenizer;
using testing::value_of;
using testing::with_namespace;
using Ids = std::vector<TokenId>;

Ids ids_of(std::string_view written) {
  return value_of(
      small_tokenizer().encode(with_namespace(written), Tokenizer::ControlTokens::kHonoured));
}

// The same text from ordinary tokens alone.
Ids spelled(std::string_view written) {
  return value_of(
      small_tokenizer().encode(with_namespace(written), Tokenizer::ControlTokens::kPlain));
}

Ids operator+(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

OutputParser parser_from(OutputState begin, bool skip_special_tokens = true) {
  OutputOptions options;
  options.begin = begin;
  return {small_tokenizer(), std::move(options), skip_special_tokens};
}

std::string read(OutputParser& parser, const Ids& ids) {
  OutputEvents events;
  for (const TokenId id : ids)
    for (OutputEvent& event : parser.push(id)) events.push_back(std::move(event));
  for (OutputEvent& event : parser.finish()) events.push_back(std::move(event));
  return line_of(events);
}

std::string read(OutputParser&& parser, const Ids& ids) {
  return read(parser, ids);
}

// The assistant's turn of the specification's example E5.
constexpr std::string_view kTurn =
    "<mm:think>Two lookups.</mm:think>Checking.^<tool_call>\n"
    "^<invoke name=\"get_weather\">^<city>Paris^</city>^<days>2^</days>^</invoke>\n"
    "^<invoke name=\"get_weather\">^<city>Rome^</city>^</invoke>\n"
    "^</tool_call>[e~[";

OutputOptions weather() {
  OutputOptions options;
  options.parse_calls = true;
  options.make_call_id = testing::counted_ids();
  options.tools = value_of(parse_json(
      R"([{"type":"function","function":{"name":"get_weather","parameters":{"type":"object",
          "properties":{"city":{"type":"string"},"days":{"type":"integer"}}}}}])"));
  return options;
}

TEST(OutputParser, ReadsTheTurnOfTheSpecification) {
  OutputParser parser(small_tokenizer(), weather());
  EXPECT_EQ(read(parser, ids_of(kTurn)),
            R"(R(Two lookups.)C(Checking.)0:get_weather{"city":"Paris","days":2};)"
            R"(1:get_weather{"city":"Rome"};)");
  EXPECT_EQ(parser.state(), OutputState::kAfterCalls);
  EXPECT_EQ(parser.calls(), 2);
  EXPECT_EQ(parser.finish_reason(false), "tool_calls");
  EXPECT_EQ(parser.reasoning_tokens(), static_cast<int>(ids_of("Two lookups.").size()));
}

// Cut off behind any token, every call that was begun has arguments in JSON; what has been said of
// each field is a beginning of the whole, and grows.
TEST(OutputParser, ATurnMayEndBehindAnyToken) {
  const Ids ids = ids_of(kTurn);
  std::string reasoning, content;
  for (std::size_t size = 0; size <= ids.size(); ++size) {
    OutputParser parser(small_tokenizer(), weather());
    OutputEvents events;
    for (const TokenId id : std::span(ids).first(size))
      for (OutputEvent& event : parser.push(id)) append_event(events, std::move(event));
    for (OutputEvent& event : parser.finish()) append_event(events, std::move(event));
    std::string now_reasoning, now_content, open_arguments;
    int begun = 0, ended = 0;
    for (const OutputEvent& event : events) {
      if (event.kind == OutputEvent::Kind::kReasoning) now_reasoning += event.text;
      if (event.kind == OutputEvent::Kind::kContent) now_content += event.text;
      if (event.kind == OutputEvent::Kind::kCallBegin) ++begun;
      if (event.kind == OutputEvent::Kind::kArguments) open_arguments += event.text;
      if (event.kind == OutputEvent::Kind::kCallEnd) {
        ++ended;
        EXPECT_TRUE(parse_json(open_arguments).has_value()) << open_arguments;
        EXPECT_EQ(open_arguments.find("minimax"), std::string::npos);
        open_arguments.clear();
      }
    }
    EXPECT_EQ(begun, ended) << size;
    EXPECT_EQ(begun, parser.calls()) << size;
    EXPECT_TRUE(now_reasoning.starts_with(reasoning)) << size;
    EXPECT_TRUE(now_content.starts_with(content)) << size;
    reasoning = now_reasoning;
    content = now_content;
  }
  EXPECT_EQ(reasoning, "Two lookups.");
  EXPECT_EQ(content, "Checking.");
}

TEST(OutputParser, ACutTurnKeepsWhatIsFinished) {
  struct Case {
    std::string_view turn, expected;
  };
  const std::string begin =
      "<mm:think>Two</mm:think>Checking.^<tool_call>\n^<invoke name=\"get_weather\">";
  for (const Case& c : {
           Case{"", "{};"},
           Case{"^", "{};"},
           Case{"^<city", "{};"},
           Case{"^<city>", "{};"},
           Case{"^<city>Par", R"({"city":"Par"};)"},
           Case{"^<city>Paris^", R"({"city":"Paris"};)"},
           Case{"^<city>Paris^</city", R"({"city":"Paris"};)"},
           Case{"^<city>Paris^</city>^<days>2", R"({"city":"Paris"};)"},
           Case{"^<city>Paris^</city>^<days>2^</days>", R"({"city":"Paris","days":2};)"},
           Case{"^</invoke>\n", "{};"},
           Case{"^</invoke>\n^", "{};"},
           Case{"^</invoke>\n^</tool_call", "{};"},
       }) {
    OutputParser parser(small_tokenizer(), weather());
    EXPECT_EQ(read(parser, ids_of(begin + std::string(c.turn))),
              "R(Two)C(Checking.)0:get_weather" + std::string(c.expected))
        << c.turn;
    EXPECT_EQ(parser.finish_reason(true), "length");
  }
}

TEST(OutputParser, OnlyMarkersSurviveAmongSpecialTokens) {
  const Ids ids = ids_of("a<think>b]~b]c[e~[");
  EXPECT_EQ(read(parser_from(OutputState::kContent), ids), "C(abc)");
  EXPECT_EQ(read(parser_from(OutputState::kContent, false), ids), "C(a<think>b]~b]c)");
  EXPECT_EQ(read(parser_from(OutputState::kStart), ids_of("<think><mm:think>a</mm:think>b")),
            "R(a)C(b)");
  EXPECT_EQ(read(parser_from(OutputState::kStart), {-1, 1 << 30}), "");
}

// Whether the released tokenizer.json calls the markers special is not known.
TEST(OutputParser, AParameterMayHaveTheNameOfAControlToken) {
  const Ids turn = ids_of(
      "^<tool_call>\n^<invoke name=\"write\">^<filename>a<fim_prefix>b^</filename>^</invoke>\n"
      "^</tool_call>");
  EXPECT_EQ(std::ranges::count(turn, *small_tokenizer().id_of("<filename>")), 1);
  OutputParser parser(small_tokenizer(), weather());
  EXPECT_NE(read(parser, turn).find(R"({"filename":"a<fim_prefix>b"})"), std::string::npos);
}

TEST(OutputParser, MarkersAreReadWhateverTheTokenizersFileSays) {
  Json file = value_of(parse_json(testing::source_file("data/tokenizer/tokenizer.json")));
  for (Json& token : file["added_tokens"]) token["special"] = true;
  const auto tokenizer = Tokenizer::parse(python_json(file));
  ASSERT_TRUE(tokenizer.has_value());
  OutputParser parser(*tokenizer, weather());
  EXPECT_EQ(read(parser, ids_of("<mm:think>a</mm:think>b^<tool_call>^<invoke name=f>^</invoke>")),
            "R(a)C(b)0:f{};");
}

TEST(OutputParser, CountsTokensOfReasoning) {
  struct Case {
    OutputState begin;
    Ids ids;
    std::size_t expected;
  };
  const Ids thought = ids_of(" I see \U0001F600."), close = ids_of("</mm:think>");
  const Ids open = ids_of("<mm:think>"), answer = ids_of("So it is.");
  ASSERT_EQ(open.size() + close.size(), 2U);
  for (const Case& c : {
           Case{OutputState::kStart, open + thought + close + answer, thought.size()},
           Case{OutputState::kReasoning, thought + close + answer, thought.size()},
           Case{OutputState::kReasoning, thought + open + thought, 2 * thought.size()},
           Case{OutputState::kReasoning, thought, thought.size()},
           Case{OutputState::kStart, close + answer, 0},
           Case{OutputState::kStart, answer, 0},
           Case{OutputState::kContent, answer + open + thought + close, thought.size()},
           // From pieces: the tokens of a marker do not count, those of half a marker do.
           Case{OutputState::kReasoning, thought + spelled("</mm:think>") + answer, thought.size()},
           Case{OutputState::kStart, spelled("<mm:think>") + thought, thought.size()},
           Case{OutputState::kReasoning, thought + spelled("</mm:th") + answer,
                (thought + spelled("</mm:th") + answer).size()},
           Case{OutputState::kReasoning, thought + spelled("</mm:th"),
                (thought + spelled("</mm:th")).size()},
           Case{OutputState::kReasoning, thought + ids_of("^<tool_call>^"), thought.size()},
       }) {
    OutputParser parser = parser_from(c.begin);
    const std::string line = read(parser, c.ids);
    EXPECT_EQ(parser.reasoning_tokens(), static_cast<int>(c.expected)) << line;
  }
}

TEST(OutputParser, NoTokenGivesHalfACharacter) {
  std::string emoji;
  for (int i = 0; i < 20; ++i) emoji += "\U0001F600\U0001F468\u200D\U0001F469";
  for (const OutputState begin : {OutputState::kContent, OutputState::kReasoning}) {
    OutputParser parser = parser_from(begin);
    std::string text;
    for (const TokenId id : ids_of(emoji))
      for (const OutputEvent& event : parser.push(id)) {
        EXPECT_EQ(event.text.find("\uFFFD"), std::string::npos);
        text += event.text;
      }
    EXPECT_EQ(text, emoji);
    EXPECT_TRUE(parser.finish().empty());
  }
}

TEST(OutputParser, TextMayBePushedToo) {
  OutputParser parser = parser_from(OutputState::kStart);
  parser.push_text("<mm:think>So");
  EXPECT_EQ(parser.reasoning_tokens(), 0);
  EXPECT_EQ(read(parser, ids_of(" it</mm:think>is")), "R( it)C(is)");
}

}  // namespace
}  // namespace m3
