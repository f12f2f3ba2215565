#include "output/call_parser.h"

#include <gtest/gtest.h>

#include <set>

#include "output/testing.h"

namespace m3 {
namespace {

using testing::read_line;
using testing::tool_options;
using testing::value_of;

// The arguments of one call of "f" with these elements.
std::string arguments(std::string_view elements, std::string_view parameters) {
  const std::string line = read_line(
      fmt::format("^<tool_call>\n^<invoke name=\"f\">{}^</invoke>\n^</tool_call>", elements),
      tool_options(parameters));
  EXPECT_TRUE(line.starts_with("0:f") && line.ends_with(";")) << line;
  const std::string json = line.substr(3, line.size() - 4);
  EXPECT_TRUE(parse_json(json).has_value()) << json;
  return json;
}

// The same, where the elements are cut off.
std::string cut_arguments(std::string_view elements, std::string_view parameters) {
  const std::string line = read_line(fmt::format("^<tool_call>\n^<invoke name=\"f\">{}", elements),
                                     tool_options(parameters));
  EXPECT_TRUE(line.starts_with("0:f") && line.ends_with(";")) << line;
  return line.substr(3, line.size() - 4);
}

constexpr std::string_view kCity =
    R"({"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}}})";

TEST(CallParser, TheSmallestCall) {
  EXPECT_EQ(arguments("", "{}"), "{}");
  EXPECT_EQ(arguments(" \n\t", "{}"), "{}");
}

TEST(CallParser, TheExampleOfTheGrammar) {
  EXPECT_EQ(arguments("^<user_id>42^</user_id>^<tags>^<item>a^</item>^<item>b^</item>^</tags>"
                      "^<addr>^<zip>018956^</zip>^</addr>",
                      R"({"properties":{"user_id":{"type":"integer"},
                          "tags":{"type":"array","items":{"type":"string"}},
                          "addr":{"type":"object","properties":{"zip":{"type":"string"}}}}})"),
            R"({"user_id":42,"tags":["a","b"],"addr":{"zip":"018956"}})");
}

TEST(CallParser, CallsInABlockAreApart) {
  OutputOptions options = tool_options();
  const OutputEvents events = testing::read_turn(
      "Hi ^<tool_call>\n^<invoke name=\"bash\">^<a>1^</a>^</invoke>\n"
      "^<invoke name=\"search\">^</invoke>\n^</tool_call>",
      options);
  EXPECT_EQ(testing::line_of(events), "C(Hi )0:bash{\"a\":\"1\"};1:search{};");
  EXPECT_EQ(events[1].id, "id0");
  EXPECT_EQ(events[4].id, "id1");
  EXPECT_EQ(events[4].call, 1);
}

TEST(CallParser, IdsDiffer) {
  const CallIds make = random_call_ids();
  std::set<std::string> ids;
  for (int i = 0; i < 100; ++i) {
    const std::string id = make();
    EXPECT_EQ(id.size(), 29U) << id;
    EXPECT_EQ(id.find_first_not_of("0123456789abcdef", 5), id.npos) << id;
    EXPECT_TRUE(id.starts_with("call_")) << id;
    ids.insert(id);
  }
  EXPECT_EQ(ids.size(), 100U);
}

TEST(CallParser, NamesInAnyQuotes) {
  for (const std::string_view tag :
       {"invoke name=\"get-it.v2\"", "invoke name='get-it.v2'", "invoke name=get-it.v2",
        "invoke name=\" get-it.v2 \"", "invoke  name = \"get-it.v2\" ", "invoke\nname=\"get-it.v2",
        "inv\u200Boke name=\"get-it.v2\""})
    EXPECT_EQ(read_line(fmt::format("^<tool_call>^ <{}>^</invoke>", tag), tool_options()),
              "0:get-it.v2{};")
        << tag;
}

TEST(CallParser, CallsWithoutNameAreDropped) {
  for (const std::string_view tag :
       {"invoke name=\"\"", "invoke name=", "invoke name", "invoke id=\"f\"", "invoke", "invoked"})
    EXPECT_EQ(read_line(fmt::format("^<tool_call>^<{}>^<a>1^</a>^</invoke>^<invoke name=f>", tag),
                        tool_options()),
              "0:f{};")
        << tag;
}

TEST(CallParser, StringsAreVerbatim) {
  const std::string nasty =
      "</city>\n<tool_call> &amp; \"q\" \\ " + std::string(1, '\0') + " \x1F \U0001F600]<] x ";
  EXPECT_EQ(arguments("^<city>" + nasty + "^</city>", kCity),
            "{\"city\":" + python_json(nasty) + "}");
  EXPECT_EQ(arguments("^<other>" + nasty + "^</other>", kCity),
            "{\"other\":" + python_json(nasty) + "}");
  EXPECT_EQ(arguments("^<city>\n x \n^</city>^<days>1^</days>", kCity),
            R"({"city":"\n x \n","days":1})");
  EXPECT_EQ(arguments("^<city><mm:think></mm:think>^</city>", kCity),
            R"({"city":"<mm:think></mm:think>"})");
}

TEST(CallParser, KeysAreVerbatim) {
  EXPECT_EQ(arguments("^<a-b.c>1^</a-b.c>^< k\">2^</ k\">", "{}"), R"({"a-b.c":"1"," k\"":"2"})");
  EXPECT_EQ(arguments("^<invoke>1^</invoke>^<tool_call>2^</tool_call>", "{}"),
            R"({"invoke":"1","tool_call":"2"})");
  EXPECT_EQ(arguments("^<city>1^</ci\u200Bty>", kCity), R"({"city":"1"})");
}

TEST(CallParser, OnlyTheEndOfAnElementEndsAString) {
  EXPECT_EQ(arguments("^<city>a^b^<c>^</d>^<invoke name=\"g\">e^</city>", kCity),
            R"({"city":"ab<c></d><invoke name=\"g\">e"})");
  EXPECT_EQ(arguments("^<city>a", kCity), R"({"city":"a"})");
  EXPECT_EQ(read_line("^<tool_call>^<invoke name=f>^<city>a^</tool_call>b", tool_options(kCity)),
            R"(0:f{"city":"a"};)");
  EXPECT_EQ(arguments("^<o>^<s>a^</o>^<t>b^</t>",
                      R"({"properties":{"o":{"properties":{"s":{"type":"string"}}}}})"),
            R"({"o":{"s":"a"},"t":"b"})");
}

TEST(CallParser, AClosingTagClosesWhatIsInside) {
  EXPECT_EQ(arguments("^<a>^<b>^<c>1^</a>^<d>2^</d>", "{}"), R"({"a":{"b":{"c":"1"}},"d":"2"})");
  EXPECT_EQ(arguments("^<a>1^</b>^</a>^</c>^<d>2^</d>", "{}"), R"({"a":"1","d":"2"})");
  EXPECT_EQ(read_line("^<tool_call>^<invoke name=f>^<a>^<b>1^<invoke name=g>^<c>2^</tool_call>",
                      tool_options()),
            R"(0:f{"a":{"b":"1"}};1:g{"c":"2"};)");
}

TEST(CallParser, TextBetweenParametersSpoilsTheRestOfTheCall) {
  EXPECT_EQ(arguments("^<a>1^</a>junk^<b>2^</b>^", "{}"), R"({"a":"1"})");
  EXPECT_EQ(arguments("^<a>1^</a>^<>^<b>2^</b>", "{}"), R"({"a":"1"})");
  EXPECT_EQ(read_line("^<tool_call>^<invoke name=f>x^<a>1^</a>^</invoke>^<invoke name=f>^<b>2^</b>"
                      "^</invoke>^</tool_call>",
                      tool_options()),
            R"(0:f{};1:f{"b":"2"};)");
}

TEST(CallParser, WhatStandsBetweenCallsIsDropped) {
  EXPECT_EQ(read_line("^<tool_call>x^<a>1^</a>^</b>^y^<invoke name=f>^</invoke>z^<tool_call>"
                      "^</tool_call>",
                      tool_options()),
            "0:f{};");
  EXPECT_EQ(read_line("^<tool_call>^</tool_call>", tool_options()), "");
  EXPECT_EQ(read_line("^<tool_call>^<invoke name=f>^</invoke>\n", tool_options()), "0:f{};");
}

TEST(CallParser, UndeclaredToolsAreCalled) {
  EXPECT_EQ(
      read_line("^<tool_call>^<invoke name=\"other\">^<n>5^</n>^<o>^<x>1^</x>^</o>^<l>^<item>1"
                "^</item>^</l>^</invoke>^</tool_call>",
                tool_options(R"({"properties":{"n":{"type":"integer"}}})")),
      R"(0:other{"n":"5","o":{"x":"1"},"l":["1"]};)");
}

// What is finished stays, and of a string what has been given; the result is JSON at every cut.
TEST(CallParser, ACallThatIsCutOffIsClosed) {
  const std::string_view schema = R"({"properties":{"s":{"type":"string"},"n":{"type":"integer"},
      "o":{"type":"object","properties":{"s":{"type":"string"},
           "l":{"type":"array","items":{"type":"integer"}}}}}})";
  EXPECT_EQ(cut_arguments("", schema), "{}");
  EXPECT_EQ(cut_arguments("^<n>12", schema), "{}");
  EXPECT_EQ(cut_arguments("^<n>12^", schema), "{}");
  EXPECT_EQ(cut_arguments("^<n>12^</n", schema), "{}");
  EXPECT_EQ(cut_arguments("^<n>12^</n>^<s", schema), R"({"n":12})");
  EXPECT_EQ(cut_arguments("^<n>12^</n>^<s>", schema), R"({"n":12})");
  EXPECT_EQ(cut_arguments("^<n>12^</n>^<s>ab", schema), R"({"n":12,"s":"ab"})");
  EXPECT_EQ(cut_arguments("^<s>ab^</", schema), R"({"s":"ab"})");
  EXPECT_EQ(cut_arguments("^<s>ab]<]mini", schema), R"({"s":"ab]<]mini"})");
  EXPECT_EQ(cut_arguments("^<o>", schema), "{}");
  EXPECT_EQ(cut_arguments("^<o>^<l>^<item>1", schema), "{}");
  EXPECT_EQ(cut_arguments("^<o>^<l>^<item>1^</item>", schema), R"({"o":{"l":[1]}})");
  EXPECT_EQ(cut_arguments("^<o>^<l>^<item>1^</item>^</l>^<s>x", schema),
            R"({"o":{"l":[1],"s":"x"}})");
  EXPECT_EQ(cut_arguments("^<s>x^</s>junk", schema), R"({"s":"x"})");
}

// The namespace string does not come back by what is taken out between its parts.
TEST(CallParser, TheNamespaceStringIsNotSpelledAnew) {
  EXPECT_EQ(arguments("^<city>]<]mini^max[>[ x^</city>", kCity), R"({"city":"]<]minimax[> x"})");
  EXPECT_EQ(arguments("^<other>]<]mini^max[>[[^</other>", kCity), R"({"other":"]<]minimax[>"})");
}

// What is held back must have a limit, too.
TEST(CallParser, ATagIsNotEndless) {
  const std::string key(512, 'k'), no_key(513, 'k');
  EXPECT_EQ(arguments("^<" + key + ">1^</k>", "{}"), "{\"" + key + "\":\"1\"}");
  EXPECT_EQ(arguments("^<city>a^<" + no_key + ">b^</city>", kCity),
            "{\"city\":\"a<" + no_key + ">b\"}");
}

TEST(CallParser, NestingHasALimit) {
  std::string deep;
  for (int i = 0; i < 300; ++i) deep += "^<a>";
  const std::string line = testing::line_of(testing::read_by(
      7, testing::with_namespace("^<tool_call>^<invoke name=f>" + deep + "^</invoke>"),
      tool_options()));
  EXPECT_TRUE(parse_json(line.substr(3, line.size() - 4)).has_value()) << line;
}

}  // namespace
}  // namespace m3
