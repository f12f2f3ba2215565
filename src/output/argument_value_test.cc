// The matrix of coercions (spec: chat-and-api §5.2): what the model wrote, by schema, as JSON.
#include "output/argument_value.h"

#include <gtest/gtest.h>

#include "output/testing.h"

namespace m3 {
namespace {

struct Case {
  std::string_view schema, text, expected;
};

// The value of a parameter "p" of this schema, read from a whole turn at every split.
std::string value(std::string_view schema, std::string_view text) {
  const std::string line = testing::read_line(
      fmt::format("^<tool_call>\n^<invoke name=\"f\">^<p>{}^</p>^</invoke>\n^</tool_call>", text),
      testing::tool_options(fmt::format(
          R"({{"type":"object","properties":{{"p":{}}},"$defs":{{"zip":{{"type":"string"}},
               "n":{{"type":"integer"}},"list":{{"$ref":"#/$defs/more~1list"}},
               "more/list":{{"type":"array","items":{{"$ref":"#/$defs/n"}}}},
               "loop":{{"$ref":"#/$defs/loop"}},
               "tree":{{"type":"object","properties":{{"v":{{"type":"integer"}},
                        "kids":{{"type":"array","items":{{"$ref":"#/$defs/tree"}}}}}}}},
               "or":{{"anyOf":[{{"$ref":"#/$defs/or"}},{{"type":"integer"}}]}}}}}})",
          schema)));
  const std::string_view begin = "0:f{\"p\":", end = "};";
  EXPECT_TRUE(line.starts_with(begin) && line.ends_with(end)) << line;
  if (line.size() < begin.size() + end.size()) return line;
  const std::string json = line.substr(begin.size(), line.size() - begin.size() - end.size());
  EXPECT_TRUE(parse_json(json).has_value()) << json;
  return json;
}

void expect_all(std::initializer_list<Case> cases) {
  for (const Case& c : cases)
    EXPECT_EQ(value(c.schema, c.text), c.expected) << c.schema << " of " << c.text;
}

TEST(ArgumentValue, Strings) {
  expect_all({
      {R"({"type":"string"})", " a\n", R"(" a\n")"},
      {R"({"type":"string"})", "null", R"("null")"},
      {R"({"type":"string"})", "007", R"("007")"},
      {R"({"type":"string"})", "", R"("")"},
      {R"({"type":["string"]})", "5", R"("5")"},
      {R"({"type":"str"})", "5", R"("5")"},
      {R"({"type":"Text"})", "null", R"("null")"},
      {R"({"type":"varchar"})", "true", R"("true")"},
      {R"({"enum":["1","2"]})", "1", R"("1")"},
      {R"({"type":"string","enum":["a"]})", "b", R"("b")"},
      {R"({"const":"1"})", "1", R"("1")"},
  });
}

TEST(ArgumentValue, Integers) {
  expect_all({
      {R"({"type":"integer"})", "42", "42"},
      {R"({"type":"integer"})", " -7\n", "-7"},
      {R"({"type":"integer"})", "007", "7"},
      {R"({"type":"integer"})", "+5", "5"},
      {R"({"type":"integer"})", "-0", "0"},
      {R"({"type":"integer"})", "123456789012345678901234567890", "123456789012345678901234567890"},
      {R"({"type":"integer"})", "5.0", R"("5.0")"},
      {R"({"type":"integer"})", "five", R"("five")"},
      {R"({"type":"integer"})", "", R"("")"},
      {R"({"type":"integer"})", "null", "null"},
      {R"({"type":"integer"})", "NULL", "null"},
      {R"({"type":"int32"})", "5", "5"},
      {R"({"type":"uint8"})", "5", "5"},
      {R"({"type":"long"})", "5", "5"},
      {R"({"type":"shortint"})", "5", "5"},
  });
  const std::string long_one = "^<tool_call>^<invoke name=f>^<p>" + std::string(5000, '1');
  EXPECT_TRUE(testing::line_of(testing::read_by(100, testing::with_namespace(long_one + "^</p>"),
                                                testing::tool_options(R"({"properties":
                                                    {"p":{"type":"integer"}}})")))
                  .starts_with(R"(0:f{"p":"11)"));
}

TEST(ArgumentValue, Numbers) {
  expect_all({
      {R"({"type":"number"})", "2.5", "2.5"},
      {R"({"type":"number"})", "5.0", "5.0"},
      {R"({"type":"number"})", "5", "5"},
      {R"({"type":"number"})", "1e-05", "1e-05"},
      {R"({"type":"number"})", "-1.50", "-1.50"},
      {R"({"type":"number"})", ".5", "0.5"},
      {R"({"type":"number"})", "+5.", "5.0"},
      {R"({"type":"number"})", "012.5", "12.5"},
      {R"({"type":"number"})", "1e999", R"("1e999")"},
      {R"({"type":"number"})", "nan", R"("nan")"},
      {R"({"type":"number"})", "0x10", R"("0x10")"},
      {R"({"type":"number"})", "+-5", R"("+-5")"},
      {R"({"type":"number"})", "1,5", R"("1,5")"},
      {R"({"type":"number"})", "Null", "null"},
      {R"({"type":"float64"})", "2.5", "2.5"},
      {R"({"type":"double"})", "2.5", "2.5"},
      {R"({"type":"numeric"})", "2.5", "2.5"},
  });
}

TEST(ArgumentValue, Booleans) {
  expect_all({
      {R"({"type":"boolean"})", "true", "true"},
      {R"({"type":"boolean"})", " False\n", "false"},
      {R"({"type":"boolean"})", "1", "true"},
      {R"({"type":"boolean"})", "0", "false"},
      {R"({"type":"boolean"})", "maybe", R"("maybe")"},
      {R"({"type":"bool"})", "true", "true"},
      {R"({"type":"binary"})", "0", "false"},
      {R"({"type":"null"})", "null", "null"},
      {R"({"type":"null"})", "", "null"},
      {R"({"type":"null"})", "x", R"("x")"},
  });
}

TEST(ArgumentValue, Objects) {
  const std::string_view typed =
      R"({"type":"object","properties":{"n":{"type":"integer"},"s":{"type":"string"}},
          "additionalProperties":false})";
  expect_all({
      {typed, "^<n>1^</n>^<s>x^</s>", R"({"n":1,"s":"x"})"},
      {typed, "\n^<n>1^</n>\n^<x>2^</x>\n", R"({"n":1,"x":"2"})"},  // not dropped
      {typed, "^<n>^</n>^<s>^</s>", R"({"n":"","s":""})"},
      {typed, "", "{}"},
      {typed, " \n", "{}"},
      {typed, R"( {"n": 1.0, "é": [2]} )", R"({"n": 1.0, "é": [2]})"},
      {typed, "[1]", R"("[1]")"},
      {typed, "{oops", R"("{oops")"},
      {typed, "null", "null"},
      {typed, "^<n>1^</n>^<n>2^</n>", R"({"n":1})"},  // written as it comes: the first stands
      {typed, "^<n>1^</n> and ^<s>x^</s> so", R"({"n":1,"s":"x","$text":"and so"})"},
      {typed, "see ^<n>1^</n>", R"({"n":1,"$text":"see"})"},
      {R"({"type":"object"})", "^<a>1^</a>^<b>^<c>2^</c>^</b>", R"({"a":"1","b":{"c":"2"}})"},
      {R"({"type":"object","additionalProperties":{"type":"integer"}})", "^<a>1^</a>",
       R"({"a":1})"},
      {R"({"properties":{"a":{"type":"boolean"}}})", "^<a>1^</a>", R"({"a":true})"},
      {R"({"type":"dict"})", "^<a>1^</a>", R"({"a":"1"})"},
      {R"({"type":"map"})", "", "{}"},
      {R"({"allOf":[{"properties":{"a":{"type":"integer"}}},{"properties":{"b":{"type":"null"}}}]})",
       "^<a>1^</a>^<b>^</b>", R"({"a":1,"b":null})"},
  });
}

TEST(ArgumentValue, Arrays) {
  const std::string_view integers = R"({"type":"array","items":{"type":"integer"}})";
  expect_all({
      {integers, "^<item>1^</item>^<item>x^</item>^<item>^</item>", R"([1,"x",""])"},
      {integers, "^<item>1^</item>^<other>2^</other>", "[1,2]"},
      {integers, "^<item>1^</item>, ^<item>2^</item>", "[1,2]"},
      {integers, "", "[]"},
      {integers, "[1, 2]", "[1, 2]"},
      {integers, "1, 2", R"("1, 2")"},
      {integers, R"({"a":1})", R"("{\"a\":1}")"},
      {integers, "null", "null"},
      {R"({"type":"array"})", "^<item>1^</item>^<item>^<a>2^</a>^</item>", R"(["1",{"a":"2"}])"},
      {R"({"type":"list"})", "^<item>1^</item>", R"(["1"])"},
      {R"({"items":{"type":"boolean"}})", "^<item>1^</item>", "[true]"},
      {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],
           "items":{"type":"boolean"}})",
       "^<item>1^</item>^<item>1^</item>^<item>1^</item>", R"([1,"1",true])"},
      {R"({"type":"array","items":{"type":"object","properties":{"n":{"type":"number"}}}})",
       "^<item>^<n>1.5^</n>^</item>^<item>^</item>", R"([{"n":1.5},{}])"},
  });
}

TEST(ArgumentValue, Unions) {
  const std::string_view nullable = R"({"type":["string","null"]})";
  const std::string_view shapes =
      R"({"anyOf":[{"type":"object","properties":{"kind":{"const":"a"},"v":{"type":"integer"}},
                    "required":["kind"]},
                   {"type":"object","properties":{"kind":{"const":"b"},"v":{"type":"string"}}},
                   {"type":"array","items":{"type":"integer"}}]})";
  expect_all({
      {nullable, "x", R"("x")"},
      {nullable, "null", "null"},
      {nullable, "", R"("")"},
      {R"({"type":"string","nullable":true})", "NULL", "null"},
      {R"({"type":["integer","null"]})", "5", "5"},
      {R"({"type":["integer","null"]})", "", "null"},
      {R"({"type":["integer","boolean"]})", "true", "true"},
      {R"({"type":["integer","boolean"]})", "x", R"("x")"},
      {R"({"type":["integer","boolean"]})", "null", "null"},
      {R"({"anyOf":[{"type":"integer"},{"type":"string"}]})", "5", "5"},
      {R"({"anyOf":[{"type":"integer"},{"type":"string"}]})", "x5", R"("x5")"},
      {R"({"oneOf":[{"type":"string"},{"type":"integer"}]})", "5", R"("5")"},  // in listed order
      {R"({"anyOf":[{"type":"array","items":{"type":"integer"}},{"type":"null"}]})",
       "^<item>1^</item>", "[1]"},
      {R"({"anyOf":[{"type":"array","items":{"type":"integer"}},{"type":"null"}]})", "", "[]"},
      {R"({"type":["array","string"],"items":{"type":"integer"}})", "^<item>1^</item>", "[1]"},
      {R"({"type":["object","null"]})", R"({"a":1})", R"({"a":1})"},
      {R"({"anyOf":[{"enum":["auto"]},{"type":"integer"}]})", "5", "5"},
      {R"({"anyOf":[{"enum":["auto"]},{"type":"integer"}]})", "auto", R"("auto")"},
      {shapes, "^<kind>a^</kind>^<v>1^</v>", R"({"kind":"a","v":1})"},
      {shapes, "^<kind>b^</kind>^<v>1^</v>", R"({"kind":"b","v":"1"})"},
      {shapes, "^<kind>c^</kind>^<v>1^</v>", R"({"kind":"c","v":1})"},  // none fits: the first
      {shapes, "^<item>1^</item>^<item>2^</item>", "[1,2]"},
  });
}

TEST(ArgumentValue, WithoutASchema) {
  expect_all({
      {"{}", "5", R"("5")"},
      {"true", " x ", R"(" x ")"},
      {"7", "", R"("")"},
      {R"({"type":"any"})", "null", R"("null")"},
      {"{}", "^<a>1^</a>^<b>^<item>2^</item>^</b>", R"({"a":"1","b":["2"]})"},
      {"{}", "^<k>1^</k>^<z>3^</z>^<k>2^</k>", R"({"k":["1","2"],"z":"3"})"},
      {"{}", "^<item>1^</item>", R"(["1"])"},
      {"{}", "^<item>1^</item>^<a>2^</a>", R"({"item":"1","a":"2"})"},
      {"{}", "so ^<a>1^</a> and\n^<b>2^</b>", R"({"a":"1","b":"2","$text":"so and"})"},
  });
}

TEST(ArgumentValue, References) {
  expect_all({
      {R"({"$ref":"#/$defs/zip"})", "018956", R"("018956")"},
      {R"({"$ref":"#/$defs/list"})", "^<item>1^</item>", "[1]"},
      {R"({"allOf":[{"$ref":"#/$defs/n"}],"description":"d"})", "5", "5"},
      {R"({"$ref":"#/$defs/tree"})", "^<v>1^</v>^<kids>^<item>^<v>2^</v>^</item>^</kids>",
       R"({"v":1,"kids":[{"v":2}]})"},
      {R"({"$ref":"#/$defs/or"})", "5", "5"},
      {R"({"$ref":"#/$defs/loop"})", "5", R"("5")"},
      {R"({"$ref":"#/$defs/missing"})", "5", R"("5")"},
      {R"({"$ref":"other.json"})", "5", R"("5")"},
  });
}

// The whole of the specification's example E6 comes back.
TEST(ArgumentValue, NestedArgumentsComeBack) {
  const std::string_view turn =
      "^<a>^<b>^<item>1^</item>^<item>2.5^</item>^<item>true^</item>^<item>^</item>^<item>x^</item>"
      "^</b>^<d>^</d>^</a>^<e>^</e>^<s><&> \"q\"\nline^</s>^<f>1e-05^</f>^<t>true^</t>";
  EXPECT_EQ(value(R"({"properties":{
                "a":{"type":"object","properties":{"b":{"items":{"type":["integer","number",
                     "boolean","null","string"]}},"d":{"type":"object"}}},
                "e":{"type":"array"},"s":{"type":"string"},"f":{"type":"number"},
                "t":{"type":"boolean"}}})",
                  turn),
            R"({"a":{"b":[1,2.5,true,null,"x"],"d":{}},"e":[],"s":"<&> \"q\"\nline","f":1e-05,)"
            R"("t":true})");
}

// Alternatives inside alternatives would be tried more often than there are stars.
TEST(ArgumentValue, UnionsOfUnionsEnd) {
  std::string text;
  for (int i = 0; i < 90; ++i) text += "^<k>";
  text += "^<bad>1^</bad>";
  const std::string node =
      R"({"type":"object","required":["x"],"properties":{"k":{"$ref":"#/p"}}})";
  const std::string line = testing::line_of(testing::read_by(
      4096, testing::with_namespace("^<tool_call>^<invoke name=f>^<p>" + text + "^</p>^</invoke>"),
      testing::tool_options(
          fmt::format(R"({{"properties":{{"p":{{"$ref":"#/p"}}}},"p":{{"anyOf":[{},{},{}]}}}})",
                      node, node, node))));
  EXPECT_TRUE(line.ends_with("};")) << line;
}

}  // namespace
}  // namespace m3
