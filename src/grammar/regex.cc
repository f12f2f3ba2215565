#include "grammar/regex.h"

#include <algorithm>
#include <optional>

#include "text/utf8.h"

namespace m3 {
namespace {

constexpr std::size_t kBytesMax = 65'536;
constexpr int kGroupsMax = 100;
constexpr std::uint32_t kTimesMax = 100'000;

const CodePointSet kDigits = {{'0', '9'}};
const CodePointSet kWordCharacters = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CodePointSet kSpaces = {
    {0x09, 0x0D},     {0x20, 0x20},     {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
    {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const CodePointSet kLineEnds = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

Regex set_regex(CodePointSet set) {
  Regex regex;
  regex.kind = Regex::Kind::kSet;
  regex.set = std::move(set);
  return regex;
}

Regex anchor(Regex::Kind kind) {
  Regex regex;
  regex.kind = kind;
  return regex;
}

std::optional<int> hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<Regex> parse() {
    M3_TRY(Regex regex, either());
    if (!at_end()) return fail("it has a ')' without '(' at byte {}", at_);
    return regex;
  }

 private:
  struct Times {
    std::uint32_t min, max;
  };

  bool at_end() const { return at_ == text_.size(); }
  bool next_is(std::string_view what) const { return text_.substr(at_).starts_with(what); }
  bool take(std::string_view what) {
    if (!next_is(what)) return false;
    at_ += what.size();
    return true;
  }

  Result<Regex> either() {
    Regex regex;
    regex.kind = Regex::Kind::kEither;
    do {
      M3_TRY(Regex part, sequence());
      regex.parts.push_back(std::move(part));
    } while (take("|"));
    if (regex.parts.size() == 1) return std::move(regex.parts.front());
    return regex;
  }

  Result<Regex> sequence() {
    std::vector<Regex> parts;
    while (!at_end() && !next_is("|") && !next_is(")")) {
      M3_TRY(Regex part, atom());
      M3_TRY(const auto times, quantifier());
      if (times) {
        Regex repeat;
        repeat.kind = Regex::Kind::kRepeat;
        repeat.min = times->min;
        repeat.max = times->max;
        repeat.parts.push_back(std::move(part));
        part = std::move(repeat);
      }
      parts.push_back(std::move(part));
    }
    return sequence_regex(std::move(parts));
  }

  Result<Regex> atom() {
    if (take("^")) return anchor(Regex::Kind::kBegin);
    if (take("$")) return anchor(Regex::Kind::kEnd);
    if (take(".")) return set_regex(complement(kLineEnds));
    if (take("(")) return group();
    if (take("[")) return character_class();
    if (next_is("*") || next_is("+") || next_is("?"))
      return fail("it has nothing to repeat at byte {}", at_);
    if (take("\\")) {
      M3_TRY(CodePointSet set, escape());
      return set_regex(std::move(set));
    }
    M3_TRY(const char32_t c, character());
    return set_regex({{c, c}});
  }

  Result<Regex> group() {
    const std::size_t begin = at_ - 1;
    if (take("?") && !take(":")) {
      const bool named = (take("P<") || take("<")) && !next_is("=") && !next_is("!");
      const std::size_t end = text_.find('>', at_);
      if (!named || end == text_.npos)
        return fail("the group at byte {} is of a kind that is not supported", begin);
      at_ = end + 1;
    }
    if (++depth_ > kGroupsMax) return fail("it nests more than {} groups", kGroupsMax);
    M3_TRY(Regex regex, either());
    --depth_;
    if (!take(")")) return fail("the group at byte {} is not closed", begin);
    return regex;
  }

  Result<std::optional<Times>> quantifier() {
    std::optional<Times> times;
    const std::size_t begin = at_;
    if (take("*")) {
      times = Times{0, Regex::kUnlimited};
    } else if (take("+")) {
      times = Times{1, Regex::kUnlimited};
    } else if (take("?")) {
      times = Times{0, 1};
    } else if (next_is("{")) {
      M3_TRY(times, braces());
    }
    if (!times) return times;
    if (times->min > times->max) return fail("the repetition at byte {} has no range", begin);
    take("?");
    if (next_is("*") || next_is("+") || next_is("?"))
      return fail("it has nothing to repeat at byte {}", at_);
    return times;
  }

  // {n}, {n,} or {n,m}. A brace that opens none of these is a character, as browsers have it.
  Result<std::optional<Times>> braces() {
    const std::size_t begin = at_++;
    const auto min = number();
    Times times{min.value_or(0), min.value_or(0)};
    if (min && take(",")) times.max = number().value_or(Regex::kUnlimited);
    if (!min || !take("}")) {
      at_ = begin;
      return std::optional<Times>();
    }
    if (times.min > kTimesMax || (times.max > kTimesMax && times.max != Regex::kUnlimited))
      return fail("the repetition at byte {} goes beyond {}", begin, kTimesMax);
    return std::optional<Times>(times);
  }

  // Numbers that are too large stay too large.
  std::optional<std::uint32_t> number() {
    std::optional<std::uint32_t> value;
    for (; !at_end() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_)
      value = std::min(value.value_or(0) * 10 + static_cast<std::uint32_t>(text_[at_] - '0'),
                       kTimesMax + 1);
    return value;
  }

  Result<char32_t> character() {
    const Utf8Char c = read_utf8(text_, at_);
    if (c.state != Utf8Char::State::kValid) return fail("byte {} is no UTF-8", at_);
    at_ += c.length;
    return c.code_point;
  }

  Result<Regex> character_class() {
    const std::size_t begin = at_ - 1;
    const bool negated = take("^");
    std::vector<CodePointRange> ranges;
    while (!take("]")) {
      if (at_end()) return fail("the class at byte {} is not closed", begin);
      M3_TRY(CodePointSet first, class_member());
      if (next_is("-") && !next_is("-]") && is_character(first)) {
        const std::size_t dash = at_++;
        if (at_end()) return fail("the class at byte {} is not closed", begin);
        M3_TRY(const CodePointSet last, class_member());
        if (!is_character(last) || last[0].first < first[0].first)
          return fail("the range at byte {} has no order", dash);
        first[0].last = last[0].last;
      }
      ranges.insert(ranges.end(), first.begin(), first.end());
    }
    const CodePointSet set = united(std::move(ranges));
    return set_regex(negated ? complement(set) : set);
  }

  static bool is_character(const CodePointSet& set) {
    return set.size() == 1 && set[0].first == set[0].last;
  }

  Result<CodePointSet> class_member() {
    if (take("\\")) {
      if (take("b")) return CodePointSet{{'\b', '\b'}};
      return escape();
    }
    M3_TRY(const char32_t c, character());
    return CodePointSet{{c, c}};
  }

  // Behind the backslash.
  Result<CodePointSet> escape() {
    if (at_end()) return fail("it ends in a backslash");
    const std::size_t begin = at_ - 1;
    const char c = text_[at_];
    const auto one = [](char32_t value) { return CodePointSet{{value, value}}; };
    constexpr std::string_view kNames = "tnrfv0";
    constexpr std::string_view kValues("\t\n\r\f\v\0", 6);
    if (const std::size_t which = kNames.find(c); which != kNames.npos) {
      ++at_;
      return one(static_cast<char32_t>(kValues[which]));
    }
    if (take("d")) return kDigits;
    if (take("D")) return complement(kDigits);
    if (take("w")) return kWordCharacters;
    if (take("W")) return complement(kWordCharacters);
    if (take("s")) return kSpaces;
    if (take("S")) return complement(kSpaces);
    if (c == 'x' || c == 'u') return hex_escape();
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter) return fail("'\\{}' at byte {} is not supported", c, begin);
    M3_TRY(const char32_t literal, character());
    return one(literal);
  }

  // \xHH, \uHHHH, a pair of those that makes one character, or \u{H...}.
  Result<CodePointSet> hex_escape() {
    const std::size_t begin = at_ - 1;
    M3_TRY(char32_t value, hex_number());
    if (value >= 0xD800 && value < 0xDC00 && take("\\")) {
      M3_TRY(const char32_t low, hex_number());
      const bool pair = low >= 0xDC00 && low <= 0xDFFF;
      value = pair ? 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00) : kCodePointMax + 1;
    }
    if (value > kCodePointMax || (value >= 0xD800 && value <= 0xDFFF))
      return fail("the escape at byte {} is no character", begin);
    return CodePointSet{{value, value}};
  }

  Result<char32_t> hex_number() {
    const std::size_t begin = at_;
    const bool is_byte = take("x");
    if (!is_byte && !take("u")) return fail("the escape at byte {} is no character", begin);
    const bool braced = !is_byte && take("{");
    const std::size_t digits = is_byte ? 2 : braced ? 6 : 4;
    char32_t value = 0;
    std::size_t read = 0;
    for (; read < digits && !at_end(); ++read, ++at_) {
      const auto digit = hex_value(text_[at_]);
      if (!digit) break;
      value = value * 16 + static_cast<char32_t>(*digit);
    }
    if (braced ? read == 0 || !take("}") : read != digits)
      return fail("the escape at byte {} needs more digits", begin);
    return value;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

Result<Regex> parse_regex(std::string_view pattern) {
  if (pattern.size() > kBytesMax) return fail("it has more than {} bytes", kBytesMax);
  return Parser(pattern).parse();
}

Regex literal_regex(std::string_view text) {
  std::vector<Regex> parts;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = read_utf8(text, at);
    parts.push_back(set_regex({{c.code_point, c.code_point}}));
    at += c.length;
  }
  return sequence_regex(std::move(parts));
}

Regex sequence_regex(std::vector<Regex> parts) {
  Regex regex;
  regex.parts = std::move(parts);
  return regex;
}

Regex anything_regex() {
  Regex regex;
  regex.kind = Regex::Kind::kRepeat;
  regex.max = Regex::kUnlimited;
  regex.parts.push_back(set_regex(complement({})));
  return regex;
}

}  // namespace m3
