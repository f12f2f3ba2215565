// Sets of characters, and how they are spelt in UTF-8.
#pragma once

#include <cstdint>
#include <vector>

namespace m3 {

// Both ends belong to it.
struct CodePointRange {
  char32_t first, last;
  bool operator==(const CodePointRange&) const = default;
};

// Ascending, disjoint, not touching one another, and without surrogates, which are no characters.
using CodePointSet = std::vector<CodePointRange>;

constexpr char32_t kCodePointMax = 0x10FFFF;

// The characters of ranges in any order.
CodePointSet united(std::vector<CodePointRange> ranges);
// The characters that are not in it.
CodePointSet complement(const CodePointSet& set);
// The characters of `set` that are not in `taken`.
CodePointSet without(const CodePointSet& set, const CodePointSet& taken);
bool contains(const CodePointSet& set, char32_t code_point);

// Both ends belong to it.
struct ByteRange {
  std::uint8_t first, last;
};

// One range of bytes for every byte of a spelling: each choice out of them is a character.
using ByteSequence = std::vector<ByteRange>;

// The spellings of all characters of a set, each of them in one sequence only.
std::vector<ByteSequence> utf8_sequences(const CodePointSet& set);

}  // namespace m3
