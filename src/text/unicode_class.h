// The classes of characters that M3's pre-tokenizer tells apart, by the tables of Unicode 16.
#pragma once

#include <cstdint>

namespace m3 {

enum class UnicodeClass : std::uint8_t {
  kUpper,        // Lu
  kLower,        // Ll
  kTitle,        // Lt
  kModifier,     // Lm
  kOtherLetter,  // Lo
  kMark,         // M
  kNumber,       // N
  kSpace,        // White_Space
  kVisible,      // P, S
  kHidden,       // C: controls, formats, private use, unassigned, surrogates
};

// Total: every value has a class (above U+10FFFF: kHidden).
UnicodeClass unicode_class(char32_t code_point);

}  // namespace m3
