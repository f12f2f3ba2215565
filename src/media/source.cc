#include "media/source.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <optional>
#include <string_view>

namespace m3 {
namespace {

bool starts_with_ignoring_case(std::string_view text, std::string_view lower) {
  return text.size() >= lower.size() &&
         std::equal(lower.begin(), lower.end(), text.begin(), [](char a, char b) {
           return a == static_cast<char>(std::tolower(static_cast<unsigned char>(b)));
         });
}

bool ends_with_ignoring_case(std::string_view text, std::string_view lower) {
  return text.size() >= lower.size() &&
         starts_with_ignoring_case(text.substr(text.size() - lower.size()), lower);
}

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// Six bits of each digit, of the common alphabet and of the one for addresses; -1: no digit.
constexpr std::array<std::int8_t, 256> make_digits() {
  std::array<std::int8_t, 256> digits{};
  digits.fill(-1);
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (std::size_t i = 0; i < kDigits.size(); ++i)
    digits[static_cast<unsigned char>(kDigits[i])] = static_cast<std::int8_t>(i);
  digits['-'] = 62;
  digits['_'] = 63;
  return digits;
}

// Nothing where the text holds what is neither a digit, white space nor padding at its end, or ends
// within a byte.
std::optional<std::string> decode_base64(std::string_view text) {
  static constexpr auto kDigits = make_digits();
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  unsigned bits = 0, held = 0;
  bool padding = false;
  for (const char c : text) {
    if (c == ' ' || c == '\n' || c == '\r' || c == '\t') continue;
    if (c == '=') {
      padding = true;
      continue;
    }
    const int digit = kDigits[static_cast<unsigned char>(c)];
    if (digit < 0 || padding) return std::nullopt;
    bits = (bits << 6) | static_cast<unsigned>(digit);
    held += 6;
    if (held >= 8) {
      held -= 8;
      bytes.push_back(static_cast<char>((bits >> held) & 0xff));
    }
  }
  if (held == 6) return std::nullopt;
  return bytes;
}

// Whether an address is SCHEME://… (RFC 3986 §3.1).
bool has_scheme(std::string_view address) {
  const std::string_view scheme = address.substr(0, address.find("://"));
  return scheme.size() < address.size() && !scheme.empty() && is_letter(scheme[0]) &&
         std::ranges::all_of(scheme, [](char c) {
           return is_letter(c) || (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.';
         });
}

// Pipes, terminals and such, which can be read but not mapped.
bool is_stream(const std::string& path) {
  std::error_code ignored;
  const auto kind = std::filesystem::status(path, ignored).type();
  return kind == std::filesystem::file_type::fifo || kind == std::filesystem::file_type::character;
}

}  // namespace

Result<MediaSource> MediaSource::open(const std::string& address, std::int64_t stream_bytes_max) {
  MediaSource source;
  if (starts_with_ignoring_case(address, "data:")) {
    source.name_ = "the data address";
    const std::size_t comma = address.find(',');
    const std::string_view head = std::string_view(address).substr(0, comma);
    if (comma == address.npos || !ends_with_ignoring_case(head, ";base64"))
      return fail("a data: address must be data:TYPE;base64,DIGITS; found {}", head.substr(0, 60));
    auto decoded = decode_base64(std::string_view(address).substr(comma + 1));
    if (!decoded) return fail("the base64 of a data: address is damaged");
    source.held_ = std::move(*decoded);
    return source;
  }
  constexpr std::string_view kFile = "file://";
  const bool is_file = starts_with_ignoring_case(address, kFile);
  if (!is_file && has_scheme(address))
    return fail("{} is not fetched: give a file or a data: URL", address.substr(0, 200));
  source.name_ = is_file ? address.substr(kFile.size()) : address;
  if (source.name_.empty()) return fail("an empty address: give a file or a data: URL");
  if (is_stream(source.name_)) {
    M3_TRY(source.held_, read_text_file(source.name_, stream_bytes_max));
  } else {
    M3_TRY(source.file_, MappedFile::open(source.name_));
  }
  return source;
}

}  // namespace m3
