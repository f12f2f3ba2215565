#include "output/output_reader.h"

#include <gtest/gtest.h>

#include "output/testing.h"

namespace m3 {
namespace {

using testing::read_line;
using testing::read_turn;
using testing::tool_options;
using testing::with_namespace;

OutputOptions from(OutputState begin) {
  OutputOptions options;
  options.begin = begin;
  return options;
}

TEST(OutputReader, TheThinkingModeDecidesWhereATurnBegins) {
  EXPECT_EQ(begin_state("enabled"), OutputState::kReasoning);
  EXPECT_EQ(begin_state("disabled"), OutputState::kContent);
  EXPECT_EQ(begin_state("adaptive"), OutputState::kStart);
  EXPECT_EQ(begin_state("other"), OutputState::kStart);
  EXPECT_EQ(begin_state(std::nullopt), OutputState::kStart);
}

TEST(OutputReader, AContinuedTurnGoesOnWhereItsTextEnds) {
  EXPECT_EQ(continued_state(""), OutputState::kStart);
  EXPECT_EQ(continued_state("</mm:think>"), OutputState::kContent);
  EXPECT_EQ(continued_state("</mm:think>Sure"), OutputState::kContent);
  EXPECT_EQ(continued_state("Sure"), OutputState::kContent);
  EXPECT_EQ(continued_state("<mm:think>"), OutputState::kReasoning);
  EXPECT_EQ(continued_state("<mm:think>Let me"), OutputState::kReasoning);
  EXPECT_EQ(continued_state("<mm:think>a</mm:think>b"), OutputState::kContent);
  EXPECT_EQ(continued_state(with_namespace("</mm:think>a^<tool_call>^</tool_call>")),
            OutputState::kContent);
  EXPECT_EQ(continued_state(with_namespace("a^<tool_call>\n^<invoke name=\"f\">")),
            OutputState::kContent);
}

TEST(OutputReader, ReasoningIsPartedFromContent) {
  struct Case {
    OutputState begin;
    std::string_view text, expected;
  };
  const auto start = OutputState::kStart;
  const auto reasoning = OutputState::kReasoning;
  const auto content = OutputState::kContent;
  for (const Case& c : {
           Case{start, "<mm:think>a</mm:think>b", "R(a)C(b)"},
           Case{start, "<mm:think>\na\n</mm:think>\n\nb",
                "R(\na\n)C(\n\nb)"},  // nothing is trimmed
           Case{start, "</mm:think>b", "C(b)"},
           Case{start, "b", "C(b)"},
           Case{start, "\n<mm:think>a", "C(\n)R(a)"},  // only a marker that comes first counts so
           Case{start, "", ""},
           Case{start, "<mm:think></mm:think>", ""},
           Case{reasoning, "a</mm:think>b", "R(a)C(b)"},
           Case{reasoning, "<mm:think>a<mm:think>c</mm:think>b", "R(ac)C(b)"},
           Case{reasoning, "all of it", "R(all of it)"},
           Case{reasoning, "</mm:think>b", "C(b)"},
           Case{content, "b", "C(b)"},
           Case{content, "</mm:think>b</mm:think>c", "C(bc)"},
           Case{content, "b<mm:think>a</mm:think>c", "C(b)R(a)C(c)"},
           Case{reasoning, "a</mm:think>b<mm:think>c", "R(a)C(b)R(c)"},
           Case{reasoning, "a</mm:thin", "R(a</mm:thin)"},
           Case{start, "<mm:th", "C(<mm:th)"},
           Case{content, "<think>a</think><<mm:think", "C(<think>a</think><<mm:think)"},
       })
    EXPECT_EQ(read_line(c.text, from(c.begin)), c.expected) << c.text;
}

TEST(OutputReader, ZeroWidthCharactersDoNotHideAMarker) {
  for (const std::string hidden : {"\u200B", "\u200C", "\u200D", "\uFEFF", "\u200B\u200D\uFEFF"}) {
    EXPECT_EQ(read_line("<" + hidden + "mm:think>a</" + hidden + "mm:thi" + hidden + "nk>b",
                        from(OutputState::kStart)),
              "R(a)C(b)");
    EXPECT_EQ(read_line("a]<" + hidden + "]minimax[>[<tool" + hidden + "_call>x", tool_options()),
              "C(a)");
    // Elsewhere they are text.
    EXPECT_EQ(read_line("a" + hidden + "b<" + hidden + "m", from(OutputState::kContent)),
              "C(a" + hidden + "b<" + hidden + "m)");
  }
}

TEST(OutputReader, RawTextIsGivenAsItIs) {
  OutputOptions options = tool_options();
  options.begin = OutputState::kReasoning;
  options.raw = true;
  const std::string_view turn =
      "a</mm:think>^<tool_call>^<invoke name=\"f\">^</invoke>^</tool_call>";
  EXPECT_EQ(read_line(turn, options), "C(" + with_namespace(turn) + ")");
  options.stop = {"inv"};
  EXPECT_EQ(read_line(turn, options), "C(" + with_namespace("a</mm:think>^<tool_call>^<") + ")");
}

TEST(OutputReader, ABlockEndsReasoning) {
  OutputOptions options = tool_options();
  options.begin = OutputState::kReasoning;
  EXPECT_EQ(read_line("hm^<tool_call>^<invoke name=\"f\">^</invoke>^</tool_call>", options),
            "R(hm)0:f{};");
  EXPECT_EQ(read_line("hm<tool_call>^", options), "R(hm<tool_call>)");
}

TEST(OutputReader, WithoutToolsABlockIsLeftOut) {
  OutputOptions options = tool_options();
  options.parse_calls = false;
  const std::string_view block =
      "^<tool_call>\n^<invoke name=\"f\">^<a>1^</a>^</invoke>^</tool_call>";
  EXPECT_EQ(read_line(fmt::format("a{}b<mm:think>c{}d", block, block), options), "C(ab)R(c)C(d)");
  EXPECT_EQ(read_line("a^<tool_call>x^<in", options), "C(a)");
  OutputReader reader(std::move(options));
  reader.push(with_namespace(block));
  EXPECT_EQ(reader.calls(), 0);
  EXPECT_EQ(reader.finish_reason(false), "stop");
}

TEST(OutputReader, HeldTextIsShownAtTheEnd) {
  for (const std::string_view text : {"a]", "a]<", "a]<]", "a]<]mini", "a]<]]<]minimax[>", "a<mm"})
    EXPECT_EQ(read_line(text, tool_options()), fmt::format("C({})", text));
}

TEST(OutputReader, TheNamespaceStringIsNeverShown) {
  EXPECT_EQ(read_line("a^b^", tool_options()), "C(ab)");
  EXPECT_EQ(read_line("a^<tool_cal", tool_options()), "C(a<tool_cal)");
  EXPECT_EQ(read_line("a]<]^<tool_call>", tool_options()), "C(a]<])");
  // Nor what swallowing a marker would spell anew: its last byte is missing.
  EXPECT_EQ(read_line("]<]mini^max[>[ ok", tool_options()), "C(]<]minimax[> ok)");
  EXPECT_EQ(read_line("]<]mini</mm:think>max[>[ ok", tool_options()), "C(]<]minimax[> ok)");
  EXPECT_EQ(read_line("]<]mi<mm:think>x</mm:think>nimax[>[[", tool_options()),
            "C(]<]mi)R(x)C(nimax[>)");
}

TEST(OutputReader, ALoneToolCallTagIsText) {
  EXPECT_EQ(read_line("<tool_call>x</tool_call>", tool_options()), "C(<tool_call>x</tool_call>)");
  EXPECT_EQ(read_line("a^ \n<tool_call>^</tool_call>b", tool_options()), "C(a)");
}

TEST(OutputReader, WhatFollowsABlockIsIgnoredButAnotherBlock) {
  const std::string_view call = "^<tool_call>^<invoke name=\"f\">^</invoke>^</tool_call>";
  EXPECT_EQ(read_line(fmt::format("a{}b<mm:think>c</mm:think>{}d", call, call), tool_options()),
            "C(a)0:f{};1:f{};");
}

TEST(OutputReader, BytesBecomeCharacters) {
  EXPECT_EQ(read_line("a\xFF<mm:think>\xF0\x9F\x98\x80\xF0\x9F</mm:think>\xE2\x82",
                      from(OutputState::kContent)),
            "C(a\uFFFD)R(\U0001F600\uFFFD)C(\uFFFD)");
}

TEST(OutputReader, AStopStringEndsTheContent) {
  OutputOptions options = from(OutputState::kReasoning);
  options.stop = {"END", "NDX"};
  EXPECT_EQ(read_line("END</mm:think>aENDX", options), "R(END)C(a)");
  EXPECT_EQ(read_line("a</mm:think>bEN", options), "R(a)C(bEN)");
  EXPECT_EQ(read_line("a</mm:think>bEN<mm:think>c</mm:think>D", options), "R(a)C(bEN)R(c)C(D)");
  EXPECT_EQ(read_line("a</mm:think>bEN</mm:think>Dc", options), "R(a)C(b)");
  options.include_stop = true;
  EXPECT_EQ(read_line("a</mm:think>bENDc^<tool_call>", options), "R(a)C(bEND)");
}

TEST(OutputReader, AStopStringMayCountAnywhere) {
  OutputOptions options = tool_options(R"({"properties":{"s":{"type":"string"}}})");
  options.begin = OutputState::kReasoning;
  options.stop_anywhere = true;
  options.stop = {"END"};
  EXPECT_EQ(read_line("aEND</mm:think>b", options), "R(a)");
  EXPECT_EQ(read_line("a</mm:think>bENDc", options), "R(a)C(b)");
  EXPECT_EQ(read_line("^<tool_call>^<invoke name=\"f\">^<s>xENDy^</s>", options),
            "0:f{\"s\":\"x\"};");
  options.include_stop = true;
  EXPECT_EQ(read_line("aEND</mm:think>b", options), "R(aEND)");
  options.stop = {"think>"};
  EXPECT_EQ(read_line("a</mm:think>b", options), "R(a)");
}

TEST(OutputReader, TellsWhichStopStringMatched) {
  OutputOptions options = from(OutputState::kContent);
  options.stop = {"x", "END"};
  OutputReader reader(std::move(options));
  reader.push("aEN");
  EXPECT_EQ(reader.stopped_by(), std::nullopt);
  reader.push("D");
  EXPECT_EQ(reader.stopped_by(), "END");
  EXPECT_TRUE(reader.push("more").empty());
  EXPECT_TRUE(reader.finish().empty());
  EXPECT_EQ(reader.finish_reason(true), "stop");
}

TEST(OutputReader, TheReasonOfTheEnd) {
  OutputReader reader(tool_options());
  EXPECT_EQ(reader.finish_reason(false), "stop");
  EXPECT_EQ(reader.finish_reason(true), "length");
  reader.push(with_namespace("^<tool_call>^<invoke name=\"f\">"));
  EXPECT_EQ(reader.finish_reason(false), "tool_calls");
  EXPECT_EQ(reader.finish_reason(true), "length");
}

TEST(OutputReader, TellsWhereTheTurnIs) {
  OutputOptions options = tool_options();
  options.begin = OutputState::kStart;
  OutputReader reader(std::move(options));
  struct Step {
    std::string_view text;
    OutputState after;
  };
  for (const Step& step : {
           Step{"<mm:thin", OutputState::kStart},
           Step{"k>", OutputState::kReasoning},
           Step{"a</mm:think", OutputState::kReasoning},
           Step{">", OutputState::kContent},
           Step{"b^", OutputState::kContent},
           Step{"<tool_call>", OutputState::kCalls},
           Step{"^<invoke name=f>^</invoke>", OutputState::kCalls},
           Step{"^</tool_call>", OutputState::kAfterCalls},
       }) {
    reader.push(with_namespace(step.text));
    EXPECT_EQ(reader.state(), step.after) << step.text;
  }
}

// Text is not kept back longer than its meaning is open.
TEST(OutputReader, TextIsGivenAtOnce) {
  OutputOptions options = tool_options(R"({"properties":{"s":{"type":"string"}}})");
  OutputReader reader(std::move(options));
  EXPECT_EQ(testing::line_of(reader.push("ab]<x")), "C(ab]<x)");
  EXPECT_EQ(testing::line_of(reader.push("c]<]")), "C(c)");
  EXPECT_EQ(testing::line_of(reader.push("d<")), "C(]<]d)");
  reader.push(with_namespace("^<tool_call>^<invoke name=\"f\">^<s>"));
  EXPECT_EQ(testing::line_of(reader.push("a\"b")), "{\"s\":\"a\\\"b");
  EXPECT_EQ(testing::line_of(reader.push("]<]c<mm:think>")), "]<]c<mm:think>");
}

// Many pieces of three bytes, of each kind of text: quadratic work would take minutes.
TEST(OutputReader, WorkIsLinear) {
  std::string text(300'000, 'x');
  for (std::size_t i = 0; i < text.size(); i += 7) text[i] = "<]\n"[i % 3];
  for (const std::string_view begin : {"", "<mm:think>", "^<tool_call>^<invoke name=f>^<s>",
                                       "^<tool_call>^<invoke name=f>^<other>", "^<tool_call>"}) {
    OutputOptions options = tool_options(R"({"properties":{"s":{"type":"string"}}})");
    options.stop = {"never", "]]]]"};
    OutputReader reader(std::move(options));
    std::size_t given = 0;
    const auto count = [&](const OutputEvents& events) {
      for (const OutputEvent& event : events) given += event.text.size();
    };
    reader.push(with_namespace(begin));
    for (std::size_t at = 0; at < text.size(); at += 3)
      count(reader.push(std::string_view(text).substr(at, 3)));
    count(reader.push(with_namespace("^</other>")));
    count(reader.finish());
    EXPECT_EQ(given >= text.size(), begin != "^<tool_call>") << begin;
  }
}

}  // namespace
}  // namespace m3
