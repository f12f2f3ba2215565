#include "grammar/matcher.h"

#include <gtest/gtest.h>

#include "grammar/testing.h"

namespace m3 {
namespace {

using testing::Dice;
using testing::schema;
using testing::shared;
using testing::small_tokenizer;
using testing::small_vocabulary;

constexpr std::string_view kPerson =
    R"({"type":"object","properties":{"name":{"type":"string","minLength":1,"maxLength":40},
        "age":{"type":"integer","minimum":0,"maximum":130},
        "tags":{"type":"array","items":{"enum":["x","xy","z"]},"maxItems":3},
        "note":{"type":["string","null"]}},"required":["name","age"]})";

constexpr std::string_view kTree =
    R"({"$defs":{"node":{"type":"object","properties":{"value":{"type":"number"},
        "children":{"type":"array","items":{"$ref":"#/$defs/node"}}},
        "required":["value","children"]}},"$ref":"#/$defs/node"})";

std::vector<std::string_view> schemas() {
  return {
      kPerson,
      kTree,
      "true",
      R"({"type":"object"})",
      R"({"type":"string"})",
      R"({"type":"string","minLength":3,"maxLength":2000})",
      R"({"type":"string","pattern":"^[A-Z]{3}-\\d{4}$"})",
      R"({"type":"string","pattern":"^\u00e9?z.{0,30}[0\u65e5-\u672c]$"})",
      R"({"type":"string","format":"date-time"})",
      R"({"type":"string","format":"email"})",
      R"({"type":"number","minimum":-1.5,"exclusiveMaximum":2})",
      R"({"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":5})",
      R"({"type":"array","prefixItems":[{"type":"string"},{"type":"null"}],"minItems":1})",
      R"({"anyOf":[{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"integer"}},
          "required":["kind","x"]},{"type":"object","properties":{"kind":{"const":"b"},
          "y":{"type":"string"}},"required":["kind"]}]})",
      R"({"type":"object","properties":{"a":{"type":"null"}},"additionalProperties":{
          "type":"boolean"}})",
      R"({"type":"object","patternProperties":{"^k\\d$":{"type":"integer"}}})",
      R"({"const":{"deep":[1,{"er":"x"}]}})",
  };
}

std::vector<std::uint64_t> allowed_by(Matcher& matcher) {
  std::vector<std::uint64_t> bits(small_vocabulary().mask_words());
  matcher.allow(bits);
  return bits;
}

// The mask by definition: every `stride`th token tried.
void expect_exact_mask(const Matcher& matcher, TokenId stride = 1) {
  Matcher asked = matcher, trial = matcher;
  const auto bits = allowed_by(asked);
  for (TokenId id = 0; id < small_tokenizer().vocab_size(); id += stride) {
    const bool accepted = trial.accept(id);
    ASSERT_EQ(has_bit(bits, id), accepted) << small_tokenizer().bytes(id);
    if (accepted) trial = matcher;
  }
}

TEST(Matcher, MasksAreWhatIsAccepted) {
  for (const auto& [json, text] : std::vector<std::pair<std::string_view, std::string_view>>{
           {kPerson, ""},
           {kPerson, R"({"name": "Zo)"},
           {kPerson, R"({"name": "Zo", "age": 1)"},
           {kPerson, R"({"name": "Zo", "age": 13, "tags": ["x)"},
           {kTree, R"({"value": -1.)"},
           {R"({"type":"string","maxLength":2})", "\"a"},
       }) {
    Matcher matcher(schema(json), small_vocabulary());
    for (const char c : text) {
      const auto id = small_tokenizer().id_of(std::string_view(&c, 1));
      ASSERT_TRUE(matcher.accept(*id)) << text;
    }
    expect_exact_mask(matcher);
  }
}

// Far from its limits a repetition shares its masks; near them it must not.
TEST(Matcher, CountsReachTheirLimits) {
  const TokenId a = *small_tokenizer().id_of("a");
  const TokenId quote = *small_tokenizer().id_of("\"");
  for (const int limit : {5, 100, 300}) {
    Matcher matcher(
        schema(fmt::format(R"({{"type":"string","minLength":{0},"maxLength":{0}}})", limit)),
        small_vocabulary());
    ASSERT_TRUE(matcher.accept(quote));
    for (int i = 0; i < limit; ++i) {
      const auto bits = allowed_by(matcher);
      ASSERT_FALSE(has_bit(bits, quote)) << i << " of " << limit;
      ASSERT_TRUE(has_bit(bits, a)) << i << " of " << limit;
      if (i + 3 > limit) expect_exact_mask(matcher, 13);
      ASSERT_TRUE(matcher.accept(a));
    }
    const auto bits = allowed_by(matcher);
    EXPECT_TRUE(has_bit(bits, quote));
    EXPECT_FALSE(has_bit(bits, a));
    ASSERT_TRUE(matcher.accept(quote));
    EXPECT_TRUE(matcher.is_complete());
  }
}

TEST(Matcher, RandomOutputsEndAsJson) {
  const auto closers = testing::tokens_of({"\"", "z", "0", "}", "]", ":"});
  for (const std::string_view json : schemas()) {
    const Matcher matcher(schema(json), small_vocabulary());
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
      Dice dice(seed);
      const auto ids = testing::walk(matcher, dice, seed * 5, closers);
      const std::string text = small_tokenizer().decode(ids);
      const auto value = parse_json(text);
      EXPECT_TRUE(value.has_value()) << json << "\n" << text << "\n" << value.error().message;
      if (::testing::Test::HasFailure()) return;
    }
  }
}

// Without a limit a model could open lists for ever, deeper than any parser goes.
TEST(Matcher, NestingHasAnEnd) {
  const auto openers = testing::tokens_of({"[", "\"", "0", "]"});
  Matcher matcher(schema("true"), small_vocabulary());
  std::string text;
  while (!matcher.is_complete() && text.size() < 5000) {
    const auto bits = allowed_by(matcher);
    const auto next =
        std::find_if(openers.begin(), openers.end(), [&](TokenId id) { return has_bit(bits, id); });
    ASSERT_NE(next, openers.end()) << text;
    ASSERT_TRUE(matcher.accept(*next));
    text += small_tokenizer().bytes(*next);
  }
  EXPECT_TRUE(parse_json(text).has_value()) << text;
}

TEST(Matcher, ForgettingChangesNothing) {
  Matcher matcher(schema(R"({"type":"array","items":{"type":"string","maxLength":100000}})"),
                  small_vocabulary());
  std::string text;
  const auto add = [&](std::string_view piece) {
    const auto id = small_tokenizer().id_of(piece);
    ASSERT_TRUE(id && matcher.accept(*id)) << piece << " behind " << text.size();
    text += piece;
  };
  add("[");
  add("\"");
  for (int i = 0; i < 90'000; ++i) add("a");
  expect_exact_mask(matcher, 101);
  add("\"");
  add("]");
  EXPECT_TRUE(matcher.is_complete());
}

TEST(Matcher, CopiesGoTheirOwnWays) {
  Matcher one(shared(choice_grammar({"ab", "cd"}, "choice")), small_vocabulary());
  Matcher two = one;
  ASSERT_TRUE(one.accept(*small_tokenizer().id_of("a")));
  ASSERT_TRUE(two.accept(*small_tokenizer().id_of("c")));
  EXPECT_FALSE(one.accept(*small_tokenizer().id_of("d")));
  EXPECT_TRUE(one.accept(*small_tokenizer().id_of("b")));
  EXPECT_TRUE(two.accept(*small_tokenizer().id_of("d")));
}

TEST(Matcher, ControlTokensAreNoText) {
  const TokenId name_space = *small_tokenizer().id_of("]<]minimax[>[");
  Matcher matcher(shared(regex_grammar("[^]*", "regex")), small_vocabulary());
  const auto bits = allowed_by(matcher);
  EXPECT_FALSE(has_bit(bits, name_space));
  EXPECT_FALSE(has_bit(bits, *small_tokenizer().id_of("[e~[")));
  EXPECT_TRUE(has_bit(bits, *small_tokenizer().id_of("]")));
  EXPECT_FALSE(matcher.accept(name_space));
  EXPECT_FALSE(matcher.accept(-1));
  EXPECT_FALSE(matcher.accept(1'000'000));
}

}  // namespace
}  // namespace m3
