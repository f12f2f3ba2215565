#include "output/argument_scalar.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/json.h"

namespace m3 {
namespace {

bool all_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
}

}  // namespace

bool is_word(std::string_view text, std::string_view lower) {
  return std::equal(text.begin(), text.end(), lower.begin(), lower.end(),
                    [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a + 32 : a) == b; });
}

MaybeJson integer_json(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (!all_digits(text)) return std::nullopt;
  text.remove_prefix(std::min(text.find_first_not_of('0'), text.size() - 1));
  if (text.size() > kJsonDigitsMax) return std::nullopt;
  return fmt::format("{}{}", negative && text != "0" ? "-" : "", text);
}

MaybeJson number_json(std::string_view text) {
  if (auto integer = integer_json(text)) return integer;
  if (text.find_first_not_of("+-.0123456789eE") != text.npos) return std::nullopt;
  if (const auto value = parse_json(text)) return std::string(text);
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  double value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = read.ec == std::errc() && read.ptr == text.data() + text.size();
  if (!whole || !std::isfinite(value)) return std::nullopt;
  return python_json(value);
}

MaybeJson boolean_json(std::string_view text) {
  if (is_word(text, "true") || text == "1") return "true";
  if (is_word(text, "false") || text == "0") return "false";
  return std::nullopt;
}

std::string json_quoted(std::string_view text) {
  return python_json(std::string(text));
}

std::string json_escaped(std::string_view text) {
  const std::string quoted = json_quoted(text);
  return quoted.substr(1, quoted.size() - 2);
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \n\t\r";
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

}  // namespace m3
