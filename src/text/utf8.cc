#include "text/utf8.h"

namespace m3 {
namespace {

using State = Utf8Char::State;

constexpr std::string_view kReplacement = "\uFFFD";

// What a lead byte promises: the length, and the range of the second byte, which is where overlong
// forms, surrogates and values above U+10FFFF are shut out (Unicode 16, table 3-7).
struct Lead {
  int length;  // 0: no lead byte
  std::uint8_t second_min, second_max;
};

constexpr Lead lead_of(std::uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// CPython holds back a lead byte ED and a second byte that makes a surrogate, although both are
// already known to be wrong.
bool is_half_surrogate(std::string_view rest) {
  return rest.size() == 2 && rest[0] == '\xED' && static_cast<std::uint8_t>(rest[1]) >= 0xA0 &&
         static_cast<std::uint8_t>(rest[1]) <= 0xBF;
}

}  // namespace

Utf8Char read_utf8(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[at + i]); };
  const Lead lead = lead_of(byte(0));
  if (lead.length == 1) return {State::kValid, 1, byte(0)};
  if (lead.length == 0) return {State::kInvalid, 1, 0};
  char32_t code_point = byte(0) & (0x7F >> lead.length);
  for (int i = 1; i < lead.length; ++i) {
    const auto read = static_cast<std::uint8_t>(i);
    if (at + read >= text.size()) return {State::kTruncated, read, 0};
    const int low = i == 1 ? lead.second_min : 0x80;
    const int high = i == 1 ? lead.second_max : 0xBF;
    if (byte(read) < low || byte(read) > high) return {State::kInvalid, read, 0};
    code_point = code_point << 6 | (byte(read) & 0x3F);
  }
  return {State::kValid, static_cast<std::uint8_t>(lead.length), code_point};
}

std::string_view without_byte_order_mark(std::string_view text) {
  constexpr std::string_view kMark = "\xef\xbb\xbf";
  return text.starts_with(kMark) ? text.substr(kMark.size()) : text;
}

void append_utf8(std::string& text, char32_t code_point) {
  const auto tail = [&](int shift) {
    return static_cast<char>(0x80 | (code_point >> shift & 0x3F));
  };
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    text += {static_cast<char>(0xC0 | code_point >> 6), tail(0)};
  } else if (code_point < 0x10000) {
    text += {static_cast<char>(0xE0 | code_point >> 12), tail(6), tail(0)};
  } else {
    text += {static_cast<char>(0xF0 | code_point >> 18), tail(12), tail(6), tail(0)};
  }
}

std::string Utf8Stream::push(std::string_view bytes) {
  held_ += bytes;
  const std::string_view text = held_;
  std::string certain;
  std::size_t at = 0;
  while (at < text.size()) {
    const Utf8Char c = read_utf8(text, at);
    if (c.state == State::kTruncated || is_half_surrogate(text.substr(at))) break;
    certain += c.state == State::kValid ? text.substr(at, c.length) : kReplacement;
    at += c.length;
  }
  held_.erase(0, at);
  return certain;
}

std::string Utf8Stream::flush() {
  std::string rest;
  for (std::size_t at = 0; at < held_.size(); at += read_utf8(held_, at).length)
    rest += kReplacement;
  held_.clear();
  return rest;
}

}  // namespace m3
