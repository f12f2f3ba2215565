#include <gtest/gtest.h>

#include "grammar/testing.h"

namespace m3 {
namespace {

using testing::error_of;
using testing::schema;
using testing::takes;
using testing::value_of;

struct Case {
  std::string_view schema;
  std::vector<std::string_view> taken, refused;
};

void check(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    const auto grammar = schema(c.schema);
    ASSERT_NE(grammar, nullptr) << c.schema;
    for (const std::string_view text : c.taken)
      EXPECT_TRUE(takes(grammar, text)) << c.schema << " refuses " << text;
    for (const std::string_view text : c.refused)
      EXPECT_FALSE(takes(grammar, text)) << c.schema << " takes " << text;
  }
}

TEST(SchemaGrammar, Scalars) {
  check({
      {R"({"type":"boolean"})", {"true", "false"}, {"True", "", "tru", "null"}},
      {R"({"type":"null"})", {"null"}, {"", "nul", "0"}},
      {R"({"type":["integer","null"]})", {"null", "0", "-12"}, {"1.5", "\"\"", "-0", "01"}},
      {R"({"type":"number"})",
       {"0", "-0.5", "12.25", "1e5", "1E-10", "-3.0e+2"},
       {"", "-", ".5", "1.", "1e", "1e400", "+1", "00"}},
      {R"({"type":"integer"})", {"9999999999999999999"}, {"99999999999999999999", "1e2"}},
  });
}

TEST(SchemaGrammar, StringsAreJsonInUtf8) {
  check({{R"({"type":"string"})",
          {R"("")", R"("a b")", R"("\"\\\/\b\f\n\r\t")", R"("\u00e9\uD83D\uDE00\ud7ff\uE000")",
           "\"\u00e9\u65e5\U0001F600\x7f\""},
          {R"(")", R"(a)", R"("a"b")", R"("\x")", R"("\u12")", R"("\uD83D")", R"("\uD83Dx")",
           R"("\uD83D\u0041")", R"("\uDE00")", "\"\n\"", "\"\x1f\"", "\"\x80\"", "\"\xC0\x80\"",
           "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xE2\x82\""}}});
}

TEST(SchemaGrammar, StringsHaveLengthsInCharacters) {
  check({
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {R"("ab")", R"("abc")", R"("\n\u0041x")", "\"\U0001F600\u00e9\"", R"("\ud83d\ude00y")"},
       {R"("")", R"("a")", R"("abcd")", R"("\u0041")", "\"\U0001F600\""}},
      {R"({"type":"string","maxLength":0})", {R"("")"}, {R"("a")"}},
      {R"({"type":"string","minLength":3})", {R"("abc")", R"("abcdefgh")"}, {R"("ab")"}},
  });
}

TEST(SchemaGrammar, StringsMatchPatterns) {
  check({
      {R"({"type":"string","pattern":"^[a-z]+\\d{2}$"})",
       {R"("ab12")"},
       {R"("ab1")", R"("12")", R"("ab123")"}},
      {R"({"type":"string","pattern":"b"})", {R"("b")", R"("abc")", R"("b\n")"}, {R"("ac")"}},
      {R"({"type":"string","pattern":"^a|b$"})", {R"("axx")", R"("xxb")"}, {R"("xax")", R"("bx")"}},
      {R"({"type":"string","pattern":"^.\"\\\\$"})", {R"("x\"\\")"}, {R"("x")"}},
      {R"({"type":"string","pattern":"^\\s$"})", {R"("\n")", R"(" ")"}, {R"("\u000a")", R"("x")"}},
      {R"({"type":"string","pattern":"^[^a]$"})", {"\"\u65e5\"", R"("\u0001")"}, {R"("a")"}},
      {R"({"type":"string","pattern":"^a*$","minLength":2,"maxLength":3})",
       {R"("aa")", R"("aaa")"},
       {R"("a")", R"("aaaa")"}},
      {R"({"type":"string","pattern":"^[a\"\n]{2,3000}$","maxLength":4})",
       {R"("aa")", R"("a\"\na")"},
       {R"("a")", R"("aaaaa")", R"("ab")"}},
      {R"({"allOf":[{"pattern":"a"},{"pattern":"b"}],"type":"string"})",
       {R"("ab")", R"("b a")"},
       {R"("a")", R"("b")"}},
  });
}

TEST(SchemaGrammar, Formats) {
  check({
      {R"({"type":"string","format":"date"})",
       {R"("2024-02-29")", R"("2023-12-31")", R"("2000-02-29")"},
       {R"("2023-02-29")", R"("1900-02-29")", R"("2023-04-31")", R"("2023-13-01")",
        R"("2023-1-1")"}},
      {R"({"type":"string","format":"time"})",
       {R"("23:59:59Z")", R"("00:00:00.125+02:00")"},
       {R"("24:00:00Z")", R"("00:00:00")"}},
      {R"({"type":"string","format":"date-time"})",
       {R"("2024-01-02T03:04:05Z")"},
       {R"("2024-01-02")"}},
      {R"({"type":"string","format":"uuid"})",
       {R"("123e4567-e89b-12d3-a456-426614174000")"},
       {R"("123e4567-e89b-12d3-a456-42661417400")"}},
      {R"({"type":"string","format":"email"})",
       {R"("a.b+c@x-y.example.org")"},
       {R"("a@b")", R"("@x.org")"}},
      {R"({"type":"string","format":"ipv4"})",
       {R"("255.0.10.1")"},
       {R"("256.0.0.1")", R"("1.2.3")"}},
      {R"({"type":"string","format":"something"})", {R"("anything")"}, {"1"}},
  });
}

TEST(SchemaGrammar, NumbersWithinBounds) {
  check({
      {R"({"type":"integer","minimum":-5,"maximum":12})",
       {"-5", "-1", "0", "9", "12"},
       {"-6", "13", "100", "-10", "1.0"}},
      {R"({"type":"integer","exclusiveMinimum":0})", {"1", "10", "1000000"}, {"0", "-1"}},
      {R"({"type":"integer","multipleOf":7,"minimum":1})", {"7", "14", "700"}, {"0", "8", "-7"}},
      {R"({"type":"number","minimum":0,"maximum":1})",
       {"0", "0.0", "-0.0", "0.5", "1", "1.000"},
       {"1.01", "-0.1", "2", "1e0", "10"}},
      {R"({"type":"number","exclusiveMinimum":0.25,"exclusiveMaximum":0.5})",
       {"0.26", "0.2500001", "0.49999"},
       {"0.25", "0.250", "0.5", "0.50", "0", "1"}},
      {R"({"type":"number","minimum":-1.5})", {"-1.5", "-1.49", "3"}, {"-1.51", "-2"}},
      {R"({"type":"number","multipleOf":0.01})", {"1", "1.5", "-1.25"}, {"1.255", "1e2"}},
      {R"({"type":"number","multipleOf":0.25})", {"1.75", "0.5", "3"}, {"0.1", "0.3"}},
      {R"({"type":"number","maximum":1e-05})", {"0.00001", "-1"}, {"0.00002", "1"}},
      {R"({"type":"integer","minimum":123456789012345678901234567890})",
       {"123456789012345678901234567890", "123456789012345678901234567891"},
       {"123456789012345678901234567889", "9"}},
  });
}

TEST(SchemaGrammar, EveryIntegerRangeIsExact) {
  for (const auto& [low, high] : {std::pair(-12, 7), {0, 0}, {-100, -99}, {8, 111}, {-3, 120}}) {
    const auto grammar =
        schema(fmt::format(R"({{"type":"integer","minimum":{},"maximum":{}}})", low, high));
    for (int value = -130; value <= 130; ++value)
      EXPECT_EQ(takes(grammar, std::to_string(value)), low <= value && value <= high)
          << value << " of " << low << " to " << high;
  }
}

TEST(SchemaGrammar, BoundsHoldForFractions) {
  const auto text = [](int hundredths) {
    const int size = std::abs(hundredths);
    return fmt::format("{}{}.{:02}", hundredths < 0 ? "-" : "", size / 100, size % 100);
  };
  for (const int low : {-1050, -150, -25, 0, 30, 99})
    for (const int high : {-100, -7, 0, 31, 200, 1001}) {
      if (low >= high) continue;
      const auto grammar = schema(fmt::format(
          R"({{"type":"number","minimum":{},"exclusiveMaximum":{}}})", text(low), text(high)));
      for (int value = -1200; value <= 1200; ++value)
        ASSERT_EQ(takes(grammar, text(value)), low <= value && value < high)
            << text(value) << " from " << text(low) << " below " << text(high);
    }
}

TEST(SchemaGrammar, Enumerations) {
  check({
      {R"({"enum":["a","ab",1,null,"\"x\n"]})",
       {R"("a")", R"("ab")", "1", "null", R"("\"x\n")"},
       {R"("b")", R"("abc")", "2", "a", ""}},
      {R"({"const":{"a":[1,"x"]}})", {R"({"a":[1,"x"]})", R"({"a": [1, "x"]})"}, {R"({"a":[1]})"}},
      {R"({"type":"string","enum":["a",1,"b"],"minLength":1})", {R"("a")"}, {"1"}},
      {R"({"enum":[1,5,10],"maximum":5})", {"1", "5"}, {"10"}},
      {R"({"allOf":[{"enum":["a","b"]},{"enum":["b","c"]}]})", {R"("b")"}, {R"("a")", R"("c")"}},
  });
}

TEST(SchemaGrammar, Arrays) {
  check({
      {R"({"type":"array","items":{"type":"integer"}})",
       {"[]", "[1]", "[1,2,3]", "[1, 2]", "[\n  1,\n  2\n]"},
       {"[1,]", "[,1]", "[1 ,2]", "[\"a\"]", "[", "[  1]"}},
      {R"({"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":2})",
       {"[true]", "[true,false]"},
       {"[]", "[true,true,true]"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false})",
       {"[]", "[1]", "[1,\"a\"]"},
       {"[\"a\"]", "[1,\"a\",2]"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"}],"items":{"type":"null"},"minItems":2,
           "maxItems":3})",
       {"[1,null]", "[1,null,null]"},
       {"[1]", "[1,null,null,null]", "[null,null]"}},
      {R"({"type":"array","items":[{"type":"integer"}],"additionalItems":{"type":"null"}})",
       {"[1,null]"},
       {"[1,1]"}},
      {R"({"type":"array","maxItems":0})", {"[]", "[ ]"}, {"[1]"}},
  });
}

TEST(SchemaGrammar, ObjectsKeepTheOrderOfTheSchema) {
  check({
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"null"},
           "c":{"type":"boolean"}},"required":["b"]})",
       {R"({"b":null})", R"({"a":1,"b":null,"c":true})", R"({ "a": 1, "b": null })",
        "{\n  \"b\": null,\n  \"c\": true\n}"},
       {R"({})", R"({"a":1})", R"({"b":null,"a":1})", R"({"b":null,"b":null})",
        R"({"b":null,"d":1})", R"({"b":null,})", R"({,"b":null})"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"}},"additionalProperties":true})",
       {R"({"a":1,"b":[{}],"c":"x"})", R"({"z":1})", R"({"aa":1})", R"({"":0})"},
       {R"({"a":"x"})", R"({"b":1,"a":2})", R"({"\u0061":"x"})"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"}})",
       {R"({})", R"({"x":1,"y":2})"},
       {R"({"x":"y"})"}},
      {R"({"type":"object","properties":{"a":true},"required":["z","a"],
           "additionalProperties":{"type":"null"}})",
       {R"({"a":1,"z":null})", R"({"a":1,"z":null,"q":null})"},
       {R"({"a":1})", R"({"a":1,"z":1})", R"({"a":1,"q":null,"z":null})"}},
      {R"({"type":"object","patternProperties":{"^x-":{"type":"integer"}}})",
       {R"({})", R"({"x-a":1})"},
       {R"({"x-a":"s"})", R"({"y":1})"}},
      {R"({"type":"object","properties":{"x-1":{"minimum":5}},
           "patternProperties":{"^x-":{"type":"integer"},"y$":{"type":"null"}},
           "additionalProperties":{"type":"boolean"}})",
       {R"({"x-1":5,"x-2":1,"ay":null,"b":true})"},
       {R"({"x-1":4})", R"({"x-1":"a"})", R"({"ay":true})", R"({"x-y":1})"}},
      {R"({"type":"object"})", {R"({})", R"({"a":{"b":[null,1.5,"x"]}})"}, {"[]", "1"}},
  });
}

TEST(SchemaGrammar, Combinations) {
  check({
      {R"({"anyOf":[{"type":"integer"},{"type":"array","items":{"type":"null"}}]})",
       {"1", "[null]"},
       {"[1]", "null"}},
      {R"({"oneOf":[{"const":"a"},{"const":"b"}]})", {R"("a")", R"("b")"}, {R"("c")"}},
      {R"({"allOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},
           {"properties":{"b":{"type":"null"},"a":{"minimum":3}}}]})",
       {R"({"a":3})", R"({"a":4,"b":null})"},
       {R"({"a":2})", R"({"b":null})"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},
           "anyOf":[{"required":["a"]},{"required":["b"]}]})",
       {R"({"a":1})", R"({"b":1})", R"({"a":1,"b":1})"},
       {R"({})"}},
      {R"({"allOf":[{"properties":{"a":true},"additionalProperties":false},
           {"properties":{"b":true}}],"type":"object"})",
       {R"({"a":1})", "{}"},
       {R"({"b":1})"}},
      {R"({"type":["integer","string"],"allOf":[{"type":["string","null"]}]})",
       {R"("a")"},
       {"1", "null"}},
      {R"(true)", {"1", "[]", R"({"a":null})"}, {""}},
  });
}

TEST(SchemaGrammar, References) {
  check({
      {R"({"$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},
           "next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["v","next"]}},
           "$ref":"#/$defs/node"})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":{"v":3,"next":null}}})"},
       {R"({"v":1})", R"({"v":1,"next":{}})"}},
      {R"({"type":"array","items":{"$ref":"#"}})", {"[]", "[[],[[]]]"}, {"[1]"}},
      {R"({"definitions":{"a/b~c":{"type":"null"}},"$ref":"#/definitions/a~1b~0c"})",
       {"null"},
       {"1"}},
      {R"({"$defs":{"n":{"type":"integer"}},"properties":{"a":{"$ref":"#/$defs/n","minimum":5}},
           "type":"object"})",
       {R"({"a":5})"},
       {R"({"a":4})"}},
      {R"({"anyOf":[{"$ref":"#"},{"type":"null"}]})", {"null"}, {"1"}},
  });
}

TEST(SchemaGrammar, AnnotationsAndUnknownKeywordsSayNothing) {
  check({{R"({"$schema":"x","$id":"y","title":1,"description":"d","default":2,"examples":3,
              "deprecated":true,"readOnly":true,"nullable":true,"x-order":[1],"type":"null"})",
          {"null"},
          {"1"}}});
}

TEST(SchemaGrammar, ErrorsNameThePlaceAndTheKeyword) {
  struct Wrong {
    std::string_view schema, message;
  };
  for (const Wrong& wrong : std::vector<Wrong>{
           {"5", "schema: a schema must be an object, true or false, it is a number"},
           {R"({"type":5})", "schema: 'type' must be a type or a list of types, it is a number"},
           {R"({"type":"strin"})", "schema: 'type' \"strin\" is no type of JSON Schema"},
           {R"({"properties":[]})", "schema: 'properties' must be an object, it is a list"},
           {R"({"properties":{"a":{"items":{"not":{}}}}})",
            "schema.properties.a.items: 'not' is not supported"},
           {R"({"properties":{"a":{"multipleOf":0}}})",
            "schema.properties.a: 'multipleOf' must be above 0, it is 0"},
           {R"({"properties":{"a":{"multipleOf":0.1234567891}}})",
            "schema.properties.a: 'multipleOf' 0.1234567891 is not supported"},
           {R"({"anyOf":[{"type":"null"},{"uniqueItems":true}]})",
            "schema.anyOf[1]: 'uniqueItems' is not supported"},
           {R"({"anyOf":[]})",
            "schema: 'anyOf' must be a list of at least one schema, it is empty"},
           {R"({"enum":"a"})", "schema: 'enum' must be a list, it is a string"},
           {R"({"required":[1]})", "schema: 'required' must be a list of names, it is a list"},
           {R"({"minLength":-1})",
            "schema: 'minLength' must be a whole number that is not negative, it is -1"},
           {R"({"minItems":1000000000})", "schema: 'minItems' above 100000 is not supported"},
           {R"({"$ref":"#/$defs/none"})",
            "schema: '$ref' \"#/$defs/none\" leads to no part of this schema"},
           {R"({"$ref":"https://example.org/x"})",
            "schema: '$ref' \"https://example.org/x\" leads to no part of this schema"},
           {R"x({"pattern":"a(?=b)"})x",
            "schema: 'pattern' \"a(?=b)\": the group at byte 1 is of a kind that is not supported"},
           {R"({"minProperties":2})", "schema: 'minProperties' is not supported here"},
           {"false", "schema: it allows no output at all"},
           {R"({"enum":[]})", "schema: it allows no output at all"},
           {R"({"type":"integer","minimum":2,"maximum":1})", "schema: it allows no output at all"},
           {R"({"type":"array","minItems":3,"maxItems":2})", "schema: it allows no output at all"},
           {R"({"type":"string","pattern":"^a$","minLength":2})",
            "schema: it allows no output at all"},
           {R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})",
            "schema: it allows no output at all"},
       })
    EXPECT_EQ(error_of(schema_grammar(value_of(parse_json(wrong.schema)), "schema")), wrong.message)
        << wrong.schema;
}

TEST(SchemaGrammar, WhatCannotBeDoneIsLeftOut) {
  check({
      {R"({"type":"object","properties":{"a":false,"b":{"type":"null"}}})",
       {"{}", R"({"b":null})"},
       {R"({"a":1})"}},
      {R"({"anyOf":[false,{"type":"null"}]})", {"null"}, {"1"}},
      {R"({"type":"array","items":false})", {"[]"}, {"[1]"}},
  });
}

TEST(RegexGrammar, MatchesAsAWhole) {
  const auto grammar = testing::shared(regex_grammar("(yes|no)!{0,2}", "guided_regex"));
  for (const std::string_view text : {"yes", "no!", "yes!!"}) EXPECT_TRUE(takes(grammar, text));
  for (const std::string_view text : {"", "yes!!!", "xyes", "ye"})
    EXPECT_FALSE(takes(grammar, text));
  EXPECT_EQ(error_of(regex_grammar("(", "guided_regex")),
            "guided_regex: the group at byte 0 is not closed");
}

TEST(ChoiceGrammar, TakesOneOfTheTexts) {
  const auto grammar = testing::shared(choice_grammar({"a", "ab", "\u65e5"}, "guided_choice"));
  for (const std::string_view text : {"a", "ab", "\u65e5"}) EXPECT_TRUE(takes(grammar, text));
  for (const std::string_view text : {"", "b", "aba"}) EXPECT_FALSE(takes(grammar, text));
  EXPECT_EQ(error_of(choice_grammar({}, "guided_choice")),
            "guided_choice: there is nothing to choose from");
}

}  // namespace
}  // namespace m3
