#include <gtest/gtest.h>

#include "grammar/testing.h"
#include "text/normalise.h"

namespace m3 {
namespace {

using testing::error_of;
using testing::small_tokenizer;
using testing::small_vocabulary;
using testing::value_of;

ControlIds ids() {
  return value_of(find_control_ids(small_tokenizer()));
}

Json tools_of(std::string_view json) {
  return value_of(normalise_tools(value_of(parse_json(json))));
}

Matcher matcher_of(std::string_view tools, const ToolCalls& calls = {}) {
  return Matcher(testing::shared(tool_grammar(tools_of(tools), calls, ids())), small_vocabulary());
}

// NS in a text stands for the namespace token.
std::vector<TokenId> encoded(std::string text) {
  for (std::size_t at = text.find("NS<"); at != text.npos; at = text.find("NS<", at))
    text.replace(at, 2, "]<]minimax[>[");
  return value_of(small_tokenizer().encode(text, Tokenizer::ControlTokens::kHonoured));
}

// Checks each token against the mask as well.
bool takes(Matcher matcher, std::string_view text) {
  for (const TokenId id : encoded(std::string(text))) {
    std::vector<std::uint64_t> bits(small_vocabulary().mask_words());
    matcher.allow(bits);
    const bool accepted = matcher.accept(id);
    EXPECT_EQ(has_bit(bits, id), accepted) << small_tokenizer().bytes(id);
    if (!accepted) return false;
  }
  return matcher.can_end();
}

std::string block(std::string_view calls) {
  return fmt::format("NS<tool_call>\n{}NS</tool_call>", calls);
}

constexpr std::string_view kWeather =
    R"([{"type":"function","function":{"name":"get_weather","parameters":{"type":"object",
        "properties":{"city":{"type":"string"},"days":{"type":"integer"}},"required":["city"]}}}])";

constexpr std::string_view kNested =
    R"([{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{
        "a":{"type":"object"},"e":{"type":"array"},"s":{"type":"string"},"f":{"type":"number"},
        "t":{"type":"boolean"},"n":{"type":["integer","null"]},
        "u":{"enum":["celsius","kelvin"]},
        "l":{"type":"array","items":{"type":"object","properties":{"id":{"type":"integer"},
             "tags":{"type":"array","items":{"type":"string"},"maxItems":2}},"required":["id"]},
             "minItems":1},
        "m":{"type":"object","additionalProperties":{"type":"integer"}}},
        "required":["t"]}}}])";

TEST(ToolGrammar, TakesTheTemplatesOwnCalls) {
  const Matcher weather = matcher_of(kWeather);
  EXPECT_TRUE(takes(weather, block("NS<invoke name=\"get_weather\">NS<city>ParisNS</city>"
                                   "NS<days>2NS</days>NS</invoke>\n"
                                   "NS<invoke name=\"get_weather\">NS<city>RomeNS</city>"
                                   "NS</invoke>\n")));
  EXPECT_TRUE(takes(weather,
                    "NS<tool_call>NS<invoke name=\"get_weather\">NS<city>NS</city>"
                    "NS</invoke>NS</tool_call>"));
  const Matcher nested = matcher_of(kNested);
  EXPECT_TRUE(takes(
      nested, block("NS<invoke name=\"f\">NS<t>trueNS</t>NS<a>NS<b>NS<item>1NS</item>"
                    "NS<item>2.5NS</item>NS<item>trueNS</item>NS<item>NS</item>NS<item>xNS</item>"
                    "NS</b>NS<d>NS</d>NS</a>NS<e>NS</e>NS<s><&> \"q\"\nlineNS</s>"
                    "NS<f>1e-05NS</f>NS</invoke>\n")));
}

TEST(ToolGrammar, RefusesWhatNoToolDeclares) {
  const Matcher weather = matcher_of(kWeather);
  for (const std::string_view calls : {
           "",                                                             // no call
           "NS<invoke name=\"get_time\">NS<city>xNS</city>NS</invoke>\n",  // another tool
           "NS<invoke name=\"get_weather\">NS</invoke>\n",                 // city is required
           "NS<invoke name=\"get_weather\">NS<days>2NS</days>NS<city>xNS</city>NS</invoke>\n",
           "NS<invoke name=\"get_weather\">NS<city>xNS</city>NS<days>manyNS</days>NS</invoke>\n",
           "NS<invoke name=\"get_weather\">NS<city>xNS</city>NS<more>1NS</more>NS</invoke>\n",
           "NS<invoke name=\"get_weather\">NS<city>xNS</town>NS</invoke>\n",
           "NS<invoke name=\"get_weather\">NS<city>xNS</city>NS<city>yNS</city>NS</invoke>\n",
           "NS<invoke name=\"get_weather\">NS<city>xNS</city>NS</invoke>\n\n\n",
       })
    EXPECT_FALSE(takes(weather, block(calls))) << calls;
  EXPECT_FALSE(takes(weather, "Let me see."));
  EXPECT_FALSE(takes(
      weather, block("NS<invoke name=\"get_weather\">NS<city>xNS</city>NS</invoke>\n") + "\n"));
}

TEST(ToolGrammar, ValuesObeyTheirSchemas) {
  const Matcher nested = matcher_of(kNested);
  const auto call = [&](std::string_view arguments) {
    return takes(nested, block(fmt::format("NS<invoke name=\"f\">NS<t>trueNS</t>{}NS</invoke>\n",
                                           arguments)));
  };
  EXPECT_TRUE(call("NS<n>nullNS</n>NS<u>kelvinNS</u>"));
  EXPECT_TRUE(call("NS<u>celsiusNS</u>NS<n>-3NS</n>"));  // optional ones in any order
  EXPECT_FALSE(call("NS<u>fahrenheitNS</u>"));
  EXPECT_FALSE(call("NS<n>NS</n>"));
  EXPECT_FALSE(call("NS<f>NS</f>"));
  EXPECT_TRUE(
      call("NS<l>NS<item>NS<id>1NS</id>NS<tags>NS<item>aNS</item>NS</tags>NS</item>NS</l>"));
  EXPECT_FALSE(call("NS<l>NS</l>"));
  EXPECT_FALSE(call("NS<l>NS<item>NS</item>NS</l>"));
  EXPECT_FALSE(
      call("NS<l>NS<item>NS<id>1NS</id>NS<tags>NS<item>aNS</item>NS<item>aNS</item>"
           "NS<item>aNS</item>NS</tags>NS</item>NS</l>"));
  EXPECT_TRUE(call("NS<m>NS<x-1>1NS</x-1>NS<y.z>2NS</y.z>NS</m>"));
  EXPECT_FALSE(call("NS<m>NS<x>aNS</x>NS</m>"));
  EXPECT_FALSE(call("NS<m>NS<x>1NS</y>NS</m>"));
  EXPECT_FALSE(call("NS<m>NS<xy>1NS</x>NS</m>"));
  EXPECT_TRUE(call("NS<a>NS<k>NS<k>deepNS</k>NS</k>NS</a>"));
  EXPECT_TRUE(call("NS<s></s></invoke><tool_call>&amp;NS</s>") == false);  // <tool_call> is a token
  EXPECT_TRUE(call("NS<s></s></invoke>&amp; {\"a\": 1}NS</s>"));
}

TEST(ToolGrammar, NamedAndSingleCalls) {
  constexpr std::string_view kTwo = R"([{"type":"function","name":"a.b-c"},
      {"type":"function","name":"d","parameters":{"type":"object","properties":{}}}])";
  const std::string first = "NS<invoke name=\"a.b-c\">NS</invoke>\n";
  const std::string second = "NS<invoke name=\"d\">NS</invoke>\n";
  const Matcher any = matcher_of(kTwo);
  EXPECT_TRUE(takes(any, block(first + second + first)));
  const Matcher one = matcher_of(kTwo, {.parallel = false});
  EXPECT_TRUE(takes(one, block(second)));
  EXPECT_FALSE(takes(one, block(first + second)));
  const Matcher named = matcher_of(kTwo, {.name = "d"});
  EXPECT_TRUE(takes(named, block(second)));
  EXPECT_FALSE(takes(named, block(first)));
}

TEST(ToolGrammar, ErrorsNameTheTool) {
  const auto error = [](std::string_view tools, const ToolCalls& calls = {}) {
    return error_of(tool_grammar(tools_of(tools), calls, ids()));
  };
  EXPECT_EQ(error("[]"), "there are no tools to call");
  EXPECT_EQ(error(kWeather, {.name = "x"}), "there is no tool with the name \"x\"");
  EXPECT_EQ(error(R"([{"name":"a"},{"name":"b\"c"}])"),
            "tools[1].function: the name \"b\\\"c\" cannot be written in a call");
  EXPECT_EQ(error(R"([{"name":"a","parameters":{"properties":{"x":{"not":{}}}}}])"),
            "tools[0].function.parameters.properties.x: 'not' is not supported");
  EXPECT_EQ(error(R"([{"name":"a","parameters":{"properties":{"x>":{}}}}])"),
            "tools[0].function.parameters: the name \"x>\" cannot be the key of an element");
  EXPECT_EQ(error(R"([{"name":"a","parameters":{"type":"string"}}])"),
            "tools: it allows no output at all");
  EXPECT_EQ(
      error(R"([{"name":"a","parameters":5}])"),
      "tools[0].function.parameters: a schema must be an object, true or false, it is a number");
}

// Every tag has its own namespace token, and tags nest.
void expect_structure(const std::vector<TokenId>& output) {
  const ControlIds control = ids();
  std::vector<std::string> open;
  std::string text;
  std::vector<std::string> tags;  // what follows each namespace token
  for (const TokenId id : output) {
    if (id == control.name_space) {
      tags.emplace_back();
    } else {
      ASSERT_FALSE(tags.empty());
      tags.back() += small_tokenizer().bytes(id);
    }
  }
  for (const std::string& tag : tags) {
    const std::string name = tag.substr(1, tag.find('>') - 1);
    if (!name.starts_with('/')) {
      open.push_back(name.substr(0, name.find(' ')));
      continue;
    }
    ASSERT_FALSE(open.empty()) << small_tokenizer().decode(output);
    EXPECT_EQ(name.substr(1), open.back()) << small_tokenizer().decode(output);
    open.pop_back();
  }
  EXPECT_TRUE(open.empty()) << small_tokenizer().decode(output);
}

TEST(ToolGrammar, RandomCallsAreWellFormed) {
  const auto closers = testing::tokens_of({"]<]minimax[>[", "</tool_call>", "/", "<", "0", "t"});
  for (const std::string_view tools : {kWeather, kNested}) {
    const Matcher matcher = matcher_of(tools);
    for (std::uint64_t seed = 0; seed < 25; ++seed) {
      testing::Dice dice(seed);
      expect_structure(testing::walk(matcher, dice, seed * 4, closers));
      if (::testing::Test::HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace m3
