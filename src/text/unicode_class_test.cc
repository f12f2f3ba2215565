#include "text/unicode_class.h"

#include <gtest/gtest.h>

#include <string_view>

namespace m3 {
namespace {

using enum UnicodeClass;

TEST(UnicodeClass, KnowsEachClass) {
  for (char32_t c : std::u32string_view(U"AZÀЖΩ𐐀"))
    EXPECT_EQ(unicode_class(c), kUpper) << static_cast<std::uint32_t>(c);
  for (char32_t c : std::u32string_view(U"azßàжωſ𐐨"))
    EXPECT_EQ(unicode_class(c), kLower) << static_cast<std::uint32_t>(c);
  EXPECT_EQ(unicode_class(U'ǅ'), kTitle);
  EXPECT_EQ(unicode_class(U'ʰ'), kModifier);
  EXPECT_EQ(unicode_class(U'日'), kOtherLetter);
  EXPECT_EQ(unicode_class(0x301), kMark);
  EXPECT_EQ(unicode_class(U'²'), kNumber);
  EXPECT_EQ(unicode_class(U'Ⅷ'), kNumber);
  EXPECT_EQ(unicode_class(U'€'), kVisible);
  EXPECT_EQ(unicode_class(0xE000), kHidden);
  EXPECT_EQ(unicode_class(0x378), kHidden);
  EXPECT_EQ(unicode_class(0x10FFFF), kHidden);
  EXPECT_EQ(unicode_class(0x110000), kHidden);
}

TEST(UnicodeClass, RunsOfBothCasesAlternate) {
  for (char32_t c = 0x100; c < 0x130; c += 2) {
    EXPECT_EQ(unicode_class(c), kUpper);
    EXPECT_EQ(unicode_class(c + 1), kLower);
  }
}

TEST(UnicodeClass, SpaceIsWhiteSpace) {
  for (char32_t c : {0x9, 0xA, 0xB, 0xC, 0xD, 0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x3000})
    EXPECT_EQ(unicode_class(c), kSpace) << static_cast<std::uint32_t>(c);
  for (char32_t c : {0x1C, 0x1F, 0x180E, 0x200B, 0x200D, 0xFEFF})
    EXPECT_EQ(unicode_class(c), kHidden) << static_cast<std::uint32_t>(c);
}

TEST(UnicodeClass, IsOfUnicode16) {
  EXPECT_EQ(unicode_class(0x1C89), kUpper);         // Unicode 16
  EXPECT_EQ(unicode_class(0x1C8A), kLower);         // Unicode 16
  EXPECT_EQ(unicode_class(0x10D40), kNumber);       // Unicode 16, Garay digit
  EXPECT_EQ(unicode_class(0x31350), kOtherLetter);  // Unicode 15, CJK extension H
  EXPECT_EQ(unicode_class(0x2EBF0), kOtherLetter);  // Unicode 15.1, CJK extension I
  EXPECT_EQ(unicode_class(0x0295), kLower);         // a letter without case from Unicode 17 on
}

}  // namespace
}  // namespace m3
