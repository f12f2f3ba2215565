// The two ways in which Python prints JSON values, as declared in json.h.
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "text/json.h"
#include "text/unicode_class.h"
#include "text/utf8.h"

namespace m3 {
namespace {

// repr(float): the fewest digits that read back as the same number, and an exponent when it is
// below -4 or above 15.
std::string python_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto shortest = [&](std::chars_format format) {
    return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, value, format).ptr);
  };
  const std::string scientific = shortest(std::chars_format::scientific);
  const int exponent = std::atoi(scientific.c_str() + scientific.find('e') + 1);
  if (exponent < -4 || exponent > 15) return scientific;
  const std::string fixed = shortest(std::chars_format::fixed);
  return fixed.find('.') == fixed.npos ? fixed + ".0" : fixed;
}

std::string digits_of(const Json& integer) {
  if (const auto* digits = integer.get_ptr<const Json::binary_t*>())
    return {digits->begin(), digits->end()};
  return integer.is_number_unsigned() ? std::to_string(integer.get<std::uint64_t>())
                                      : std::to_string(integer.get<std::int64_t>());
}

std::string number_text(const Json& value) {
  return is_integer(value) ? digits_of(value) : python_float(value.get<double>());
}

void append_json_string(std::string& out, std::string_view text) {
  constexpr std::string_view kNames = "\"\\bfnrt";
  constexpr std::string_view kValues = "\"\\\b\f\n\r\t";
  out += '"';
  for (const char c : text) {
    if (const std::size_t which = kValues.find(c); which != kValues.npos) {
      out += {'\\', kNames[which]};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<int>(c));
    } else {
      out += c;
    }
  }
  out += '"';
}

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  const UnicodeClass its_class = unicode_class(c);
  return its_class != UnicodeClass::kSpace && its_class != UnicodeClass::kHidden;
}

std::string hidden_escape(char32_t c) {
  const auto value = static_cast<std::uint32_t>(c);
  if (c < 0x100) return fmt::format("\\x{:02x}", value);
  if (c < 0x10000) return fmt::format("\\u{:04x}", value);
  return fmt::format("\\U{:08x}", value);
}

// repr(str): single quotes, unless the text has some of those and no double ones.
void append_python_repr(std::string& out, std::string_view text) {
  constexpr std::string_view kNames = "nrt\\";
  constexpr std::string_view kValues = "\n\r\t\\";
  const bool single = text.find('\'') == text.npos || text.find('"') != text.npos;
  const char quote = single ? '\'' : '"';
  out += quote;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = read_utf8(text, at);
    const std::size_t which = kValues.find(text[at]);
    if (text[at] == quote) {
      out += {'\\', quote};
    } else if (which != kValues.npos) {
      out += {'\\', kNames[which]};
    } else if (c.state == Utf8Char::State::kValid && !is_printable(c.code_point)) {
      out += hidden_escape(c.code_point);
    } else {
      out += text.substr(at, c.length);
    }
    at += c.length;
  }
  out += quote;
}

// What differs between json.dumps and repr.
struct Style {
  std::string_view yes, no, none;
  void (*append_string)(std::string& out, std::string_view text);
};
constexpr Style kJsonStyle = {"true", "false", "null", append_json_string};
constexpr Style kPythonStyle = {"True", "False", "None", append_python_repr};

void append_value(std::string& out, const Json& value, const Style& style) {
  std::string_view separator;
  if (const auto* members = value.get_ptr<const Json::object_t*>()) {
    out += '{';
    for (const auto& [key, member] : *members) {
      out += separator;
      style.append_string(out, key);
      out += ": ";
      append_value(out, member, style);
      separator = ", ";
    }
    out += '}';
  } else if (const auto* elements = value.get_ptr<const Json::array_t*>()) {
    out += '[';
    for (const Json& element : *elements) {
      out += separator;
      append_value(out, element, style);
      separator = ", ";
    }
    out += ']';
  } else if (const auto* text = value.get_ptr<const Json::string_t*>()) {
    style.append_string(out, *text);
  } else if (value.is_boolean()) {
    out += value.get<bool>() ? style.yes : style.no;
  } else if (value.is_null()) {
    out += style.none;
  } else {
    out += number_text(value);
  }
}

}  // namespace

std::string python_json(const Json& value) {
  std::string out;
  append_value(out, value, kJsonStyle);
  return out;
}

std::string python_str(const Json& value) {
  if (const auto* text = value.get_ptr<const Json::string_t*>()) return *text;
  std::string out;
  append_value(out, value, kPythonStyle);
  return out;
}

}  // namespace m3
