#include "output/fragments.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "output/testing.h"

namespace m3 {
namespace {

using Kind = OutputEvent::Kind;

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

OutputEvents texts(Kind kind, std::initializer_list<std::string_view> pieces) {
  OutputEvents events;
  for (const std::string_view piece : pieces)
    events.push_back({.kind = kind, .text = std::string(piece), .call = 0});
  return events;
}

std::vector<std::string> texts_of(const OutputEvents& events) {
  std::vector<std::string> found;
  for (const OutputEvent& event : events) found.push_back(event.text);
  return found;
}

using Texts = std::vector<std::string>;

TEST(Fragments, ContentGoesWhenThereIsEnough) {
  Fragments fragments;
  EXPECT_EQ(texts_of(fragments.push(texts(Kind::kContent, {"0123456789ab"}), 0)), Texts());
  EXPECT_EQ(texts_of(fragments.push(texts(Kind::kContent, {"c"}), 0)), Texts{"01234567"});
  EXPECT_EQ(texts_of(fragments.finish()), Texts{"89abc"});
  EXPECT_EQ(texts_of(fragments.finish()), Texts());
}

TEST(Fragments, TheClockSendsFiveCharacters) {
  Fragments fragments;
  fragments.push(texts(Kind::kContent, {"abcd"}), 1.0);
  EXPECT_EQ(fragments.deadline_s(), std::nullopt);
  fragments.push(texts(Kind::kContent, {"é"}), 1.02);
  ASSERT_TRUE(fragments.deadline_s().has_value());
  EXPECT_DOUBLE_EQ(*fragments.deadline_s(), 1.05);
  EXPECT_EQ(texts_of(fragments.flush(1.04)), Texts());
  EXPECT_EQ(texts_of(fragments.flush(1.05)), Texts{"abcdé"});
  EXPECT_EQ(fragments.deadline_s(), std::nullopt);
}

// The end of an argument is `"}`; alone it would be a fragment of two characters.
TEST(Fragments, ArgumentsKeepFiveForTheirEnd) {
  Fragments fragments;
  fragments.push(texts(Kind::kArguments, {"{\"k\":\"ab"}), 0);
  EXPECT_EQ(fragments.deadline_s(), std::nullopt);
  fragments.push(texts(Kind::kArguments, {"cd"}), 0);
  EXPECT_EQ(texts_of(fragments.flush(9)), Texts{"{\"k\":"});
  EXPECT_EQ(fragments.deadline_s(), std::nullopt);
  EXPECT_EQ(texts_of(fragments.push({{.kind = Kind::kArguments, .text = "\"}", .call = 0},
                                     {.kind = Kind::kCallEnd, .call = 0}},
                                    9)),
            (Texts{"\"abcd\"}", ""}));
}

TEST(Fragments, FieldsDoNotMix) {
  Fragments fragments;
  const OutputEvents events = {{.kind = Kind::kReasoning, .text = "r"},
                               {.kind = Kind::kContent, .text = "c"},
                               {.kind = Kind::kCallBegin, .call = 0, .id = "id", .name = "f"},
                               {.kind = Kind::kArguments, .text = "{}", .call = 0},
                               {.kind = Kind::kCallEnd, .call = 0},
                               {.kind = Kind::kCallBegin, .call = 1, .id = "ie", .name = "f"},
                               {.kind = Kind::kArguments, .text = "{}", .call = 1}};
  OutputEvents sent = fragments.push(events, 0);
  for (const OutputEvent& event : fragments.finish()) sent.push_back(event);
  EXPECT_EQ(sent, events);
}

TEST(Fragments, LumpsAreCutInEqualParts) {
  Fragments fragments;
  std::string lump;
  for (int i = 0; i < 401; ++i) lump += "é";
  OutputEvents sent = fragments.push(texts(Kind::kContent, {lump}), 0);
  for (const OutputEvent& event : fragments.finish()) sent.push_back(event);
  std::string all;
  for (const OutputEvent& event : sent) {
    EXPECT_LE(characters(event.text), 200U);
    EXPECT_GE(characters(event.text), 5U);
    all += event.text;
  }
  EXPECT_EQ(all, lump);
}

TEST(Fragments, EscapesAndCharactersStayWhole) {
  const std::string unit = R"(\"\\\u00e9é€😀\n)";
  for (std::size_t offset = 0; offset < 40; ++offset) {
    std::string json = std::string(offset, 'x');
    for (int i = 0; i < 200; ++i) json += unit;
    Fragments fragments;
    OutputEvents sent = fragments.push({{.kind = Kind::kArguments, .text = json, .call = 0}}, 0);
    for (const OutputEvent& event : fragments.finish()) sent.push_back(event);
    std::string all;
    for (const OutputEvent& event : sent) {
      all += event.text;
      EXPECT_LE(characters(event.text), 200U);
      EXPECT_GE(characters(event.text), 5U);
      EXPECT_TRUE(parse_json("\"" + event.text + "\"").has_value()) << event.text;
    }
    EXPECT_EQ(all, json);
  }
}

// A long value that comes in one lump costs its length.
TEST(Fragments, WorkIsLinear) {
  Fragments fragments;
  const OutputEvents sent =
      fragments.push(texts(Kind::kArguments, {std::string(4'000'000, 'x')}), 0);
  EXPECT_EQ(sent.size(), 20'000U);
}

// The official verifier's limits, in percent (spec: chat-and-api §9.3).
struct Limits {
  double tiny_most, normal_least, large_most, normal_characters_least, large_characters_most;
};

struct Sizes {
  double tiny = 0, normal = 0, large = 0, normal_characters = 0, all_characters = 0;

  void add(std::size_t size) {
    (size < 5 ? tiny : size <= 200 ? normal : large) += 1;
    if (size >= 5 && size <= 200) normal_characters += static_cast<double>(size);
    all_characters += static_cast<double>(size);
  }
  void expect(const Limits& limits, std::string_view what) const {
    const double all = tiny + normal + large;
    EXPECT_GT(all, 0) << what;
    EXPECT_LE(100 * tiny / all, limits.tiny_most) << what;
    EXPECT_GE(100 * normal / all, limits.normal_least) << what;
    EXPECT_EQ(large, 0) << what;
    EXPECT_GE(100 * normal_characters / all_characters, limits.normal_characters_least) << what;
  }
};

// A turn written in pieces of three to five characters, one every so many milliseconds, as a client
// receives it. The sizes by field: -2 reasoning, -1 content, else the call's index.
std::map<int, Sizes> received(const std::string& turn, const OutputOptions& options,
                              double step_s) {
  OutputReader reader(options);
  Fragments fragments;
  std::map<int, Sizes> sizes;
  std::string sent_text;
  const auto receive = [&](const OutputEvents& sent) {
    for (const OutputEvent& event : sent) {
      if (!event.has_text()) continue;
      sizes[event.kind == Kind::kReasoning ? -2
            : event.kind == Kind::kContent ? -1
                                           : event.call]
          .add(characters(event.text));
      sent_text += event.text;
    }
  };
  std::string read_text;
  const auto pass_on = [&](const OutputEvents& events, double now_s) {
    for (const OutputEvent& event : events) read_text += event.text;
    receive(fragments.push(events, now_s));
  };
  double now_s = 0;
  for (std::size_t at = 0, n = 0; at < turn.size(); ++n) {
    const std::size_t length = 3 + n * 7 % 3;
    while (fragments.deadline_s() && *fragments.deadline_s() <= now_s)
      receive(fragments.flush(*fragments.deadline_s()));
    pass_on(reader.push(std::string_view(turn).substr(at, length)), now_s);
    at += length;
    now_s += step_s;
  }
  pass_on(reader.finish(), now_s);
  receive(fragments.finish());
  EXPECT_EQ(sent_text, read_text);
  return sizes;
}

std::string prose(std::size_t length) {
  std::string text;
  while (text.size() < length) text += "The quick brown fox jumps over \"the\" lazy dog.\n";
  text.resize(length);
  return text;
}

std::string call(std::string_view elements) {
  return fmt::format("^<invoke name=\"f\">{}^</invoke>\n", elements);
}

TEST(Fragments, KeepTheVerifiersLimits) {
  const OutputOptions options = testing::tool_options(
      R"({"properties":{"path":{"type":"string"},"content":{"type":"string"},
          "city":{"type":"string"},
          "config":{"type":"object","properties":{"list":{"type":"array","items":{"type":"object",
              "properties":{"name":{"type":"string"},"size":{"type":"integer"},
                            "on":{"type":"boolean"}}}}}}}})");
  std::string nested, five;
  for (int i = 0; i < 40; ++i)
    nested += fmt::format(
        "^<item>^<name>service-{}^</name>^<size>{}^</size>^<on>true^</on>^</item>", i, i * 1000);
  for (const std::string_view city : {"Rome", "Paris", "Tokyo", "New York", "Ulan Bator"})
    five += call(fmt::format("^<city>{}^</city>", city));
  const auto block = [](const std::string& calls) {
    return "^<tool_call>\n" + calls + "^</tool_call>";
  };
  struct Scenario {
    std::string_view name;
    std::string turn;
    Limits limits;
  };
  const Scenario scenarios[] = {
      {"content essay", prose(3000), {5, 95, 2, 90, 10}},
      {"content JSON",
       R"({"name": "Ada", "tags": ["a", "b"], "text": ")" + prose(150) + "\"}",
       {5, 95, 2, 90, 10}},
      {"tool, one 500-character string",
       block(call("^<content>" + prose(500) + "^</content>")),
       {15, 85, 0, 95, 0}},
      {"tool, filename and content",
       block(call("^<path>src/a.py^</path>^<content>" + prose(900) + "^</content>")),
       {10, 90, 0, 95, 0}},
      {"tool, 10 K-character string",
       block(call("^<content>" + prose(10'000) + "^</content>")),
       {5, 90, 10, 65, 35}},
      {"tool, nested 2 K object",
       block(call("^<config>^<list>" + nested + "^</list>^</config>")),
       {20, 75, 10, 60, 40}},
      {"tool, no schema",
       block(call("^<x>^<list>" + nested + "^</list>^</x>")),
       {20, 75, 10, 60, 40}},
      {"five parallel calls", block(five), {15, 85, 0, 95, 0}},
      {"reasoning then tool",
       "<mm:think>" + prose(400) + "</mm:think>" + block(call("^<city>Rome^</city>")),
       {10, 85, 5, 85, 15}},
  };
  for (const Scenario& scenario : scenarios) {
    for (const double step_s : {0.0, 0.005, 0.020, 0.060}) {
      Sizes all;
      for (const auto& [field, sizes] :
           received(testing::with_namespace(scenario.turn), options, step_s)) {
        const std::string what = fmt::format("{}, field {}, {} s", scenario.name, field, step_s);
        if (step_s < 0.05 || field >= 0) sizes.expect(scenario.limits, what);
        all.tiny += sizes.tiny;
        all.normal += sizes.normal;
        all.large += sizes.large;
        all.normal_characters += sizes.normal_characters;
        all.all_characters += sizes.all_characters;
      }
      all.expect(scenario.limits, fmt::format("{}, {} s", scenario.name, step_s));
    }
  }
}

// A nested object reaches the client while it is being written.
TEST(Fragments, NestedObjectsComeLeafByLeaf) {
  OutputReader reader(testing::tool_options(
      R"({"properties":{"o":{"type":"object","properties":{"l":{"type":"array",
          "items":{"type":"integer"}}}}}})"));
  reader.push(testing::with_namespace("^<tool_call>^<invoke name=f>^<o>^<l>"));
  EXPECT_EQ(testing::line_of(reader.push(testing::with_namespace("^<item>1^</item>"))),
            R"({"o":{"l":[1)");
  EXPECT_EQ(testing::line_of(reader.push(testing::with_namespace("^<item>2^</item>"))), ",2");
}

}  // namespace
}  // namespace m3
