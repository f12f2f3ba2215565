#include "output/marker_scanner.h"

#include <algorithm>

#include "text/control_strings.h"

namespace m3 {
namespace {

using Kind = MarkerScanner::Kind;
using Mode = MarkerScanner::Mode;

// What may stand inside a marker without being part of it. The limits bound what is held back.
constexpr std::size_t kZeroWidthMax = 32;  // characters inside one marker
constexpr std::size_t kFillerMax = 32;     // characters between a namespace string and its tag
constexpr std::size_t kTagBytesMax = 512;

enum class Fit : std::uint8_t { kNo, kUnfinished, kYes };

struct Match {
  Fit fit = Fit::kNo;
  std::size_t length = 0;     // bytes, when it fits
  std::size_t tag_begin = 0;  // of a tag: where its text begins, behind the <
};

// The bytes of the zero-width character that stands first, or 0.
std::size_t zero_width_length(std::string_view text) {
  for (const std::string_view character : {"\u200B", "\u200C", "\u200D", "\uFEFF"})
    if (text.starts_with(character)) return character.size();
  return 0;
}

bool is_blank(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

// Does the text begin with the marker?
Match match_marker(std::string_view text, std::string_view marker) {
  std::size_t at = 0, matched = 0, hidden = 0;
  while (matched < marker.size()) {
    if (at == text.size()) return {Fit::kUnfinished};
    if (text[at] == marker[matched]) {
      ++at;
      ++matched;
      continue;
    }
    const std::size_t skip = matched == 0 ? 0 : zero_width_length(text.substr(at));
    if (skip == 0 || ++hidden > kZeroWidthMax) return {};
    at += skip;
  }
  return {Fit::kYes, at};
}

// Blanks and zero-width characters between a namespace string and its tag.
std::size_t filler_length(std::string_view text) {
  std::size_t at = 0;
  for (std::size_t n = 0; n < kFillerMax && at < text.size(); ++n) {
    const std::size_t skip = is_blank(text[at]) ? 1 : zero_width_length(text.substr(at));
    if (skip == 0) break;
    at += skip;
  }
  return at;
}

// The namespace string and what may stand behind it; `length` is where a tag would begin.
Match match_namespace(std::string_view text) {
  Match match = match_marker(text, control::kNamespace);
  if (match.fit == Fit::kYes) match.length += filler_length(text.substr(match.length));
  return match;
}

Match match_block_begin(std::string_view text) {
  const Match before = match_namespace(text);
  if (before.fit != Fit::kYes) return before;
  const Match tag = match_marker(text.substr(before.length), control::kToolCallBegin);
  return {tag.fit, before.length + tag.length};
}

// A tag ends at its first >. One of the next namespace string, which has a > in it, does not count:
// that string begins something else, and what came before it was no tag.
Match match_tag(std::string_view text) {
  const Match before = match_namespace(text);
  if (before.fit != Fit::kYes) return before;
  if (before.length == text.size()) return {Fit::kUnfinished};
  if (text[before.length] != '<') return {};
  const std::size_t begin = before.length + 1;
  const std::size_t end = std::min(text.size(), begin + kTagBytesMax + 1);
  for (std::size_t at = begin; at < end; ++at) {
    if (text[at] == '>') return {at == begin ? Fit::kNo : Fit::kYes, at + 1, begin};
    if (text[at] != ']') continue;
    const Fit next = match_marker(text.substr(at), control::kNamespace).fit;
    if (next == Fit::kYes) return {};
    if (next == Fit::kUnfinished) return {Fit::kUnfinished};
  }
  return {text.size() > begin + kTagBytesMax ? Fit::kNo : Fit::kUnfinished};
}

struct Found {
  Fit fit = Fit::kNo;
  Kind kind = Kind::kText;
  Match match;
};

Found find_in_text(std::string_view text, bool at_end) {
  const auto unless_at_end = [&](Found found) {
    return found.fit == Fit::kUnfinished && at_end ? Found{} : found;
  };
  for (const auto& [marker, kind] : {std::pair{control::kThinkBegin, Kind::kThinkBegin},
                                     std::pair{control::kThinkEnd, Kind::kThinkEnd}})
    if (const Match match = match_marker(text, marker); match.fit != Fit::kNo)
      return unless_at_end({match.fit, kind, match});
  const Match block = match_block_begin(text);
  if (block.fit == Fit::kYes || (block.fit == Fit::kUnfinished && !at_end))
    return {block.fit, Kind::kBlockBegin, block};
  const Match alone = match_marker(text, control::kNamespace);
  return unless_at_end({alone.fit, Kind::kNamespace, alone});
}

Found find_in_block(std::string_view text, bool at_end) {
  const Match tag = match_tag(text);
  if (tag.fit == Fit::kYes || (tag.fit == Fit::kUnfinished && !at_end))
    return {tag.fit, Kind::kTag, tag};
  Match alone = match_marker(text, control::kNamespace);
  if (alone.fit != Fit::kYes) return {};
  if (tag.fit == Fit::kUnfinished) alone.length = text.size();
  return {Fit::kYes, Kind::kNamespace, alone};
}

}  // namespace

void MarkerScanner::add(std::string_view text) {
  text_.erase(0, at_);
  at_ = 0;
  text_ += text;
}

std::optional<MarkerScanner::Lexeme> MarkerScanner::next(Mode mode, bool at_end) {
  const std::string_view rest = std::string_view(text_).substr(at_);
  const std::string_view begins = mode == Mode::kText ? "<]" : "]";
  Found found;
  std::size_t at = rest.find_first_of(begins);
  for (; at < rest.size(); at = rest.find_first_of(begins, at + 1)) {
    const std::string_view here = rest.substr(at);
    found = mode == Mode::kText ? find_in_text(here, at_end) : find_in_block(here, at_end);
    if (found.fit != Fit::kNo) break;
  }
  if (at > 0 && !rest.empty()) {
    const std::string_view text = rest.substr(0, at);
    at_ += text.size();
    return Lexeme{Kind::kText, text};
  }
  if (found.fit != Fit::kYes) return std::nullopt;
  at_ += found.match.length;
  if (found.kind != Kind::kTag) return Lexeme{found.kind, {}};
  const std::size_t tag_end = found.match.length - 1;
  return Lexeme{Kind::kTag, rest.substr(found.match.tag_begin, tag_end - found.match.tag_begin)};
}

std::string without_zero_width(std::string_view text) {
  std::string kept;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t skip = zero_width_length(text.substr(at));
    if (skip == 0) kept += text[at];
    at += std::max<std::size_t>(skip, 1);
  }
  return kept;
}

}  // namespace m3
