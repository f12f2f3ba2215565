#include "grammar/code_points.h"

#include <algorithm>
#include <array>
#include <string>

#include "text/utf8.h"

namespace m3 {
namespace {

constexpr CodePointRange kSurrogates{0xD800, 0xDFFF};

void append_without_surrogates(std::vector<CodePointRange>& out, CodePointRange range) {
  range.last = std::min(range.last, kCodePointMax);
  if (range.first < kSurrogates.first)
    out.push_back({range.first, std::min(range.last, char32_t{kSurrogates.first - 1})});
  if (range.last > kSurrogates.last)
    out.push_back({std::max(range.first, char32_t{kSurrogates.last + 1}), range.last});
}

ByteSequence sequence_of(CodePointRange range) {
  std::string first, last;
  append_utf8(first, range.first);
  append_utf8(last, range.last);
  ByteSequence sequence;
  for (std::size_t i = 0; i < first.size(); ++i)
    sequence.push_back({static_cast<std::uint8_t>(first[i]), static_cast<std::uint8_t>(last[i])});
  return sequence;
}

// The last character up to which `range` is one sequence: all have the same length, and where the
// ends differ in a byte, all bytes behind it run through all of their values.
char32_t sequence_end(CodePointRange range) {
  for (const char32_t longest : {0x7F, 0x7FF, 0xFFFF})
    if (range.first <= longest) {
      range.last = std::min(range.last, longest);
      break;
    }
  if (range.last <= 0x7F) return range.last;
  for (const char32_t tail : {0x3F, 0xFFF, 0x3FFFF}) {
    if ((range.first & ~tail) == (range.last & ~tail)) break;
    if ((range.first & tail) != 0) return range.first | tail;
    if ((range.last & tail) != tail) range.last = (range.last & ~tail) - 1;
  }
  return range.last;
}

}  // namespace

CodePointSet united(std::vector<CodePointRange> ranges) {
  std::vector<CodePointRange> sorted;
  for (const CodePointRange& range : ranges)
    if (range.first <= range.last) append_without_surrogates(sorted, range);
  std::sort(sorted.begin(), sorted.end(),
            [](const CodePointRange& a, const CodePointRange& b) { return a.first < b.first; });
  CodePointSet set;
  for (const CodePointRange& range : sorted) {
    if (!set.empty() && range.first <= set.back().last + 1) {
      set.back().last = std::max(set.back().last, range.last);
    } else {
      set.push_back(range);
    }
  }
  return set;
}

CodePointSet complement(const CodePointSet& set) {
  std::vector<CodePointRange> gaps;
  char32_t next = 0;
  for (const CodePointRange& range : set) {
    if (range.first > next) gaps.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kCodePointMax) gaps.push_back({next, kCodePointMax});
  return united(std::move(gaps));
}

CodePointSet without(const CodePointSet& set, const CodePointSet& taken) {
  std::vector<CodePointRange> outside = complement(set);
  outside.insert(outside.end(), taken.begin(), taken.end());
  return complement(united(std::move(outside)));
}

bool contains(const CodePointSet& set, char32_t code_point) {
  return std::any_of(set.begin(), set.end(), [&](const CodePointRange& range) {
    return range.first <= code_point && code_point <= range.last;
  });
}

std::vector<ByteSequence> utf8_sequences(const CodePointSet& set) {
  std::vector<ByteSequence> sequences;
  for (CodePointRange rest : set)
    while (rest.first <= rest.last) {
      const char32_t end = sequence_end(rest);
      sequences.push_back(sequence_of({rest.first, end}));
      rest.first = end + 1;
    }
  return sequences;
}

}  // namespace m3
