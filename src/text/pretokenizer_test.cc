#include "text/pretokenizer.h"

#include <gtest/gtest.h>

#include "text/testing.h"

namespace m3 {
namespace {

using Pieces = std::vector<std::string_view>;
using testing::error_of;

const Pretokenizer& of_m3() {
  static const auto compiled = [] {
    const Json file =
        testing::value_of(parse_json(testing::source_file("data/tokenizer/tokenizer.json")));
    return Pretokenizer::compile(file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]);
  }();
  return *compiled;
}

Pieces split(std::string_view text) {
  return testing::value_of(of_m3().split(text));
}

TEST(Pretokenizer, SplitsAsTheReference) {
  EXPECT_EQ(
      split("Hello WorldWide, it's 12345!\n\n  x"),
      (Pieces{"Hello", " World", "Wide", ",", " it's", " ", "123", "45", "!\n\n", " ", " x"}));
  EXPECT_EQ(split("ПриветМир 日本語ABC"), (Pieces{"Привет", "Мир", " 日本語", "ABC"}));
  EXPECT_EQ(split("it'ſ x"), (Pieces{"it'ſ", " x"}));
  EXPECT_EQ(split(""), Pieces{});
}

TEST(Pretokenizer, HasTheClassesOfUnicode16) {
  EXPECT_EQ(split("a\u1C89b"), (Pieces{"a", "\u1C89b"}));        // upper case since Unicode 16
  EXPECT_EQ(split("a\U00010D40"), (Pieces{"a", "\U00010D40"}));  // a digit since Unicode 16
  EXPECT_EQ(split("!\u180e \u0085"), (Pieces{"!\u180e", " \u0085"}));
}

TEST(Pretokenizer, BytesThatAreNoUtf8AreSymbols) {
  EXPECT_EQ(split("ab\xff\xfe"
                  "cd \xe2\x82"),
            (Pieces{"ab", "\xff\xfe", "cd", " \xe2\x82"}));
  EXPECT_EQ(split("\xe2\x82"), (Pieces{"\xe2\x82"}));
  EXPECT_EQ(split("\xed\xa0\x80z"), (Pieces{"\xed\xa0\x80", "z"}));
}

TEST(Pretokenizer, PiecesCoverTheText) {
  std::string text;
  for (unsigned i = 0; i < 20000; ++i) text += static_cast<char>(i * i * 31 + i / 7);
  std::string joined;
  for (const auto piece : split(text)) joined += piece;
  EXPECT_EQ(joined, text);
}

TEST(Pretokenizer, GapsArePieces) {
  const auto digits = Pretokenizer::compile("\\p{N}+");
  ASSERT_TRUE(digits.has_value());
  EXPECT_EQ(testing::value_of(digits->split("ab12c3")), (Pieces{"ab", "12", "c", "3"}));
  EXPECT_EQ(testing::value_of(digits->split("ab")), (Pieces{"ab"}));
}

TEST(Pretokenizer, RefusesPatternsItCannotAnswer) {
  for (const char* pattern : {"\\p{Han}+", "\\w+", "\\d", "\\x{41}", "é", "[[:alpha:]]", "(*UTF)a",
                              "a(", "[a", "\\", "\\p", "\\pL", "\\p{", "\\p{^L}"})
    EXPECT_FALSE(Pretokenizer::compile(pattern).has_value()) << pattern;
  EXPECT_EQ(error_of(Pretokenizer::compile("\\p{Han}")),
            "the pattern of the pre-tokenizer uses the property Han, supported are L, Lu, Ll, Lt, "
            "Lm, Lo, M and N: \\p{Han}");
}

TEST(Pretokenizer, GivesUpOnPatternsThatBacktrackWithoutEnd) {
  const auto compiled = Pretokenizer::compile("(a+)+b|c");
  ASSERT_TRUE(compiled.has_value());
  EXPECT_NE(error_of(compiled->split(std::string(60, 'a'))).find("gave up"), std::string::npos);
}

// Long runs are where a careless pattern or stack goes wrong.
TEST(Pretokenizer, LongRunsAreOnePieceEach) {
  for (const std::string_view unit : {"a", "A", " ", "!", "漢", "\u0301", "é", "\n", "\xff"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    EXPECT_EQ(split(text).size(), 1u) << unit;
  }
  EXPECT_EQ(split(std::string(999'999, '1')).size(), 333'333u);
  EXPECT_EQ(split("日" + std::string(1'000'000, 'A')).size(), 2u);
}

}  // namespace
}  // namespace m3
