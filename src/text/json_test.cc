#include "text/json.h"

#include <gtest/gtest.h>

#include "text/testing.h"

namespace m3 {
namespace {

using testing::error_of;
using testing::value_of;

Json parsed(std::string_view text) {
  return value_of(parse_json(text));
}

TEST(Json, PrintsAsPythonDumps) {
  for (const std::string_view text : {
           R"({"b": [1, {"c": null}], "a": "x", "t": true, "f": false, "e": {}, "l": []})",
           R"("é 日本 😀 / <b> \" \\ \n\r\t\b\f \u0001 \u001f")",
           "\"\x7f\u0080\u2028\"",
       })
    EXPECT_EQ(python_json(parsed(text)), text);
}

TEST(Json, NumbersKeepPythonsSpelling) {
  for (const std::string_view text : {"0",
                                      "-5",
                                      "9223372036854775807",
                                      "-9223372036854775808",
                                      "18446744073709551615",
                                      "18446744073709551616",
                                      "-123456789012345678901234567890",
                                      "0.1",
                                      "1.0",
                                      "-0.0",
                                      "1e-05",
                                      "0.0001",
                                      "1e+16",
                                      "1000000000000000.0",
                                      "123456.789",
                                      "1e+22",
                                      "5e-324",
                                      "1.7976931348623157e+308",
                                      "9007199254740992.0",
                                      "3.141592653589793"})
    EXPECT_EQ(python_json(parsed(text)), text);
  EXPECT_EQ(python_json(parsed("-0")), "0");
  EXPECT_EQ(python_json(parsed("1E5")), "100000.0");
  EXPECT_EQ(python_json(parsed("2.50")), "2.5");
  EXPECT_EQ(python_json(parsed("1e-400")), "0.0");
  for (const std::string sign : {"", "-"}) {
    const std::string digits = sign + std::string(kJsonDigitsMax, '7');
    EXPECT_EQ(python_json(parsed(digits)), digits);
    EXPECT_TRUE(is_integer(parsed(digits)));
  }
  EXPECT_FALSE(is_integer(parsed("1.0")));
}

TEST(Json, RepeatedKeysKeepTheFirstPlaceAndTheLastValue) {
  EXPECT_EQ(python_json(parsed(R"({"a":1,"b":2,"a":3})")), R"({"a": 3, "b": 2})");
}

TEST(Json, ObjectsOfManyKeysAreFast) {
  std::string text = "{";
  for (int i = 0; i < 200000; ++i) text += fmt::format("\"key{}\":{},", i, i);
  text += "\"key7\":\"again\",\"key199999\":0}";
  const Json object = parsed(text);
  EXPECT_EQ(object.size(), 200000u);
  const std::vector<Json::object_t::value_type>& members = *object.get_ptr<const Json::object_t*>();
  EXPECT_EQ(members.at(7).second, "again");
  EXPECT_EQ(members.at(199998).second, 199998);
  EXPECT_EQ(members.at(199999).second, 0);
}

TEST(Json, ReadsEscapes) {
  EXPECT_EQ(parsed(R"("\u0000")"), std::string(1, '\0'));
  EXPECT_EQ(parsed(R"("\u00e9\n\"q\" \ud83d\ude00 \/ \\")"), "é\n\"q\" 😀 / \\");
}

TEST(Json, RefusesWhatIsNoJson) {
  for (const std::string_view text : {"",
                                      " ",
                                      "{",
                                      "[",
                                      "[1,]",
                                      "{\"a\":1,}",
                                      "{\"a\"}",
                                      "{a:1}",
                                      "{'a':1}",
                                      "[1 2]",
                                      "1 2",
                                      "01",
                                      "-",
                                      "1.",
                                      ".5",
                                      "1e",
                                      "+1",
                                      "0x1",
                                      "tru",
                                      "nul",
                                      "True",
                                      "NaN",
                                      "Infinity",
                                      "-Infinity",
                                      "\"",
                                      "\"\\x\"",
                                      "\"\\u12\"",
                                      "\"\\u12g4\"",
                                      "\"\\ud800\"",
                                      "\"\\ud800\\u0041\"",
                                      "\"\\udc00\"",
                                      "\"\n\"",
                                      "\"\xff\"",
                                      "\"\xed\xa0\x80\"",
                                      "\"\xe2\x82\"",
                                      "1e999",
                                      "-1e999",
                                      "]",
                                      "}",
                                      ",",
                                      "\xEF\xBB\xBF"
                                      "1"})
    EXPECT_FALSE(parse_json(text).has_value()) << text;
  using namespace std::string_view_literals;
  for (const std::string_view text :
       {"\0"sv, "1\0"sv, "1\0002"sv, "[1\0"sv, "\"\0\""sv, "{\"a\":1}\0}"sv})
    EXPECT_FALSE(parse_json(text).has_value()) << text;
}

TEST(Json, ErrorsNameThePlace) {
  // What follows the colon is the library's to word, and quotes nothing of the text.
  struct Case {
    std::string_view text, place, reason;
  };
  for (const Case& c : {
           Case{"{\"a\": 1 ; }", "JSON at byte 8 (';'): ", "expected '}'"},
           Case{"[1 2]", "JSON at byte 3 ('2'): ", "expected ']'"},
           Case{"[1, ", "JSON ends at byte 4: ", "end of input"},
           Case{"", "JSON ends at byte 0: ", "end of input"},
           Case{"\"\x01\"", "JSON at byte 1 (0x01): ", "control character"},
           Case{"[\"secret\xff\"]", "JSON at byte 8 (0xFF): ", "UTF-8"},
           Case{"\"secret; last read: 'a'", "JSON ends at byte 23: ", "missing closing quote"},
           Case{"\"\\ud800\"", "JSON at byte 7 ('\"'): ", "surrogate"},
           Case{"\xEF\xBB\xBF{}", "JSON at byte 0: ", "byte order mark"},
           Case{std::string_view("[1]\0", 4), "JSON at byte 3: ", "NUL"},
       }) {
    const std::string message = error_of(parse_json(c.text));
    EXPECT_TRUE(message.starts_with(c.place)) << message;
    EXPECT_NE(message.find(c.reason, c.place.size()), std::string::npos) << message;
    EXPECT_EQ(message.find("json.exception"), std::string::npos) << message;
    EXPECT_EQ(message.find("secret"), std::string::npos) << message;
  }
}

TEST(Json, ErrorsNameTheLineWhereAsked) {
  const auto message = [](std::string_view text) {
    return error_of(parse_json(text, JsonPlace::kLine));
  };
  EXPECT_TRUE(message("{\"a\": 1 ; }").starts_with("JSON at line 1, byte 8 (';'): "));
  EXPECT_TRUE(message("[1,\n2 3]").starts_with("JSON at line 2, byte 2 ('3'): "));
  EXPECT_TRUE(message("[1,\n2,\n").starts_with("JSON ends at line 3, byte 0: "));
}

TEST(Json, NumbersOutOfRangeAreShown) {
  constexpr std::string_view kExpected =
      " is out of range: expected a double, or an integer of 4300 digits at most";
  // Beyond a double, and beyond anything that the library reads.
  for (const std::string_view number : {"1e400", "-1E400", "1e99999", "123.5e99999"})
    EXPECT_EQ(error_of(parse_json(fmt::format("[0, {}]", number))),
              fmt::format("the JSON number {}{}", number, kExpected));
  for (const std::size_t digits : {kJsonDigitsMax + 1, 100000})
    EXPECT_EQ(error_of(parse_json(std::string(digits, '7'))),
              fmt::format("the JSON number {}...{}", std::string(40, '7'), kExpected));
}

TEST(Json, DepthIsLimited) {
  const auto nested = [](int depth) {
    return std::string(static_cast<std::size_t>(depth), '[') +
           std::string(static_cast<std::size_t>(depth), ']');
  };
  EXPECT_TRUE(parse_json(nested(kJsonDepthMax)).has_value());
  EXPECT_FALSE(parse_json(nested(kJsonDepthMax + 1)).has_value());
  EXPECT_NE(error_of(parse_json(nested(1000000))).find("nested deeper"), std::string::npos);
}

TEST(Json, PrintsAsPythonStr) {
  EXPECT_EQ(python_str(parsed(R"("it's \"raw\"")")), "it's \"raw\"");
  EXPECT_EQ(python_str(parsed("[true, false, null, 1.0, 7]")), "[True, False, None, 1.0, 7]");
  EXPECT_EQ(python_str(parsed(R"({"a": "it's", "b": "\"q\"", "c": "'\""})")),
            R"({'a': "it's", 'b': '"q"', 'c': '\'"'})");
  EXPECT_EQ(python_str(parsed(R"(["\n\t\r\\\u0000\u007f\u00a0\u00ad\u2028\u0378\ue000é 😀"])")),
            R"(['\n\t\r\\\x00\x7f\xa0\xad\u2028\u0378\ue000é 😀'])");
  EXPECT_EQ(python_str(parsed(R"(["\udb40\udc01"])")), R"(['\U000e0001'])");
}

TEST(Json, MembersAreFoundWithoutSurprises) {
  const Json object = parsed(R"({"a": null, "b": 1})");
  EXPECT_NE(find_member(object, "a"), nullptr);
  EXPECT_EQ(find_set_member(object, "a"), nullptr);
  EXPECT_EQ(find_member(object, "c"), nullptr);
  EXPECT_EQ(find_member(parsed("[1]"), "a"), nullptr);
  EXPECT_EQ(kind_name(object), "an object");
  EXPECT_EQ(find_string(object, "b"), nullptr);
  const Json named = parsed(R"({"c": "d"})");
  ASSERT_NE(find_string(named, "c"), nullptr);
  EXPECT_EQ(*find_string(named, "c"), "d");
}

TEST(Json, FlagsAreReadOrRefused) {
  const Json object = parsed(R"({"null": null, "yes": true, "no": false, "one": 1})");
  EXPECT_TRUE(value_of(read_flag(object, "yes", false)));
  EXPECT_FALSE(value_of(read_flag(object, "no", true)));
  for (const std::string_view absent : {"null", "missing"})
    EXPECT_TRUE(value_of(read_flag(object, absent, true)));
  EXPECT_EQ(error_of(read_flag(object, "one", true)),
            "\"one\" must be true or false, it is a number");
}

}  // namespace
}  // namespace m3
