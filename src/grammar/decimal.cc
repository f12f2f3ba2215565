#include "grammar/decimal.h"

#include <algorithm>
#include <charconv>

namespace m3 {
namespace {

int compare_magnitudes(const Decimal& a, const Decimal& b) {
  if (a.whole.size() != b.whole.size()) return a.whole.size() < b.whole.size() ? -1 : 1;
  if (const int order = a.whole.compare(b.whole); order != 0) return order;
  return a.fraction.compare(b.fraction);  // digits behind the point compare like letters
}

}  // namespace

Decimal decimal_of(const Json& number) {
  std::string text = python_json(number);
  Decimal decimal;
  if (text.starts_with('-')) {
    decimal.negative = true;
    text.erase(0, 1);
  }
  int exponent = 0;
  if (const std::size_t e = text.find('e'); e != text.npos) {
    exponent = std::atoi(text.c_str() + e + 1);
    text.resize(e);
  }
  const std::size_t point = std::min(text.find('.'), text.size());
  std::string digits = text.substr(0, point);
  if (point < text.size()) digits += text.substr(point + 1);
  int whole_digits = static_cast<int>(point) + exponent;
  if (whole_digits < 0) digits.insert(0, static_cast<std::size_t>(-whole_digits), '0');
  whole_digits = std::max(whole_digits, 0);
  if (static_cast<std::size_t>(whole_digits) > digits.size())
    digits.resize(static_cast<std::size_t>(whole_digits), '0');
  decimal.whole = digits.substr(0, static_cast<std::size_t>(whole_digits));
  decimal.fraction = digits.substr(static_cast<std::size_t>(whole_digits));
  decimal.whole.erase(0, std::min(decimal.whole.find_first_not_of('0'), decimal.whole.size()));
  decimal.fraction.erase(decimal.fraction.find_last_not_of('0') + 1);
  if (decimal.whole.empty() && decimal.fraction.empty()) decimal.negative = false;
  return decimal;
}

int compare(const Decimal& a, const Decimal& b) {
  if (a.negative != b.negative) return a.negative ? -1 : 1;
  return a.negative ? compare_magnitudes(b, a) : compare_magnitudes(a, b);
}

std::optional<std::uint32_t> small_integer(const Decimal& number) {
  if (number.negative || !number.is_integer() || number.whole.size() > 9) return std::nullopt;
  std::uint32_t value = 0;
  std::from_chars(number.whole.data(), number.whole.data() + number.whole.size(), value);
  return value;
}

}  // namespace m3
