// parse_json(), as declared in json.h.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <unordered_map>
#include <vector>

#include "text/json.h"
#include "text/utf8.h"

namespace m3 {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// The members of an object while it is read, with a way to find a key that stays fast in an object
// of a million keys.
class Members {
 public:
  void set(std::string key, Json value) {
    if (Json* known = find(key)) {
      *known = std::move(value);
      return;
    }
    if (members_.size() >= kScanMax) places_.emplace(key, members_.size());
    members_.emplace_back(std::move(key), std::move(value));
    if (members_.size() == kScanMax)
      for (std::size_t i = 0; i < kScanMax; ++i) places_.emplace(members_[i].first, i);
  }

  Json take() {
    Json object = Json::object();
    auto& target = *object.get_ptr<Json::object_t*>();
    target.reserve(members_.size());  // nlohmann's object copies its values when it grows
    for (auto& [key, value] : members_) target.emplace_back(std::move(key), std::move(value));
    return object;
  }

 private:
  static constexpr std::size_t kScanMax = 16;  // up to here, comparing all keys is faster

  Json* find(const std::string& key) {
    if (members_.size() < kScanMax) {
      const auto same = [&](const auto& member) { return member.first == key; };
      const auto it = std::find_if(members_.begin(), members_.end(), same);
      return it == members_.end() ? nullptr : &it->second;
    }
    const auto it = places_.find(key);
    return it == places_.end() ? nullptr : &members_[it->second].second;
  }

  std::vector<std::pair<std::string, Json>> members_;
  std::unordered_map<std::string, std::size_t> places_;  // filled from kScanMax members on
};

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  Result<Json> document() {
    M3_TRY(Json result, value(0));
    skip_space();
    if (at_ < text_.size()) return expected("the end of the text");
    return result;
  }

 private:
  Result<Json> value(int depth) {
    skip_space();
    if (at_ == text_.size()) return expected("a value");
    if (depth > kJsonDepthMax)
      return fail("JSON is nested deeper than {} levels at byte {}", kJsonDepthMax, at_);
    switch (text_[at_]) {
      case '{':
        return object(depth);
      case '[':
        return array(depth);
      case '"': {
        M3_TRY(std::string read, string());
        return Json(std::move(read));
      }
      case 't':
        return literal("true", true);
      case 'f':
        return literal("false", false);
      case 'n':
        return literal("null", nullptr);
      default:
        return number();
    }
  }

  Result<Json> object(int depth) {
    Members members;
    ++at_;
    if (skip("}")) return members.take();
    do {
      skip_space();
      if (at_ == text_.size() || text_[at_] != '"') return expected("a key in quotes");
      M3_TRY(std::string key, string());
      if (!skip(":")) return expected("':'");
      M3_TRY(Json member, value(depth + 1));
      members.set(std::move(key), std::move(member));
    } while (skip(","));
    if (!skip("}")) return expected("',' or '}'");
    return members.take();
  }

  Result<Json> array(int depth) {
    Json::array_t elements;
    ++at_;
    if (skip("]")) return Json(std::move(elements));
    do {
      M3_TRY(Json element, value(depth + 1));
      elements.push_back(std::move(element));
    } while (skip(","));
    if (!skip("]")) return expected("',' or ']'");
    return Json(std::move(elements));
  }

  // From the opening quote to behind the closing one.
  Result<std::string> string() {
    std::string read;
    ++at_;
    for (;;) {
      if (at_ == text_.size()) return expected("'\"' to end the string");
      const char c = text_[at_];
      if (c == '"') break;
      if (c == '\\') {
        M3_TRY_STATUS(escape(read));
        continue;
      }
      if (static_cast<unsigned char>(c) < 0x20) return expected("no control character in a string");
      const Utf8Char next = read_utf8(text_, at_);
      if (next.state != Utf8Char::State::kValid) return expected("UTF-8");
      read += text_.substr(at_, next.length);
      at_ += next.length;
    }
    ++at_;
    return read;
  }

  Status escape(std::string& read) {
    constexpr std::string_view kNames = "\"\\/bfnrt";
    constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
    ++at_;
    if (skip_exactly("u")) return unicode_escape(read);
    const std::size_t which = at_ < text_.size() ? kNames.find(text_[at_]) : kNames.npos;
    if (which == kNames.npos) return expected("one of \"\\/bfnrtu after a backslash");
    read += kValues[which];
    ++at_;
    return {};
  }

  // Behind \u. A pair of surrogates is one character; one alone is none.
  Status unicode_escape(std::string& read) {
    const std::size_t begin = at_;
    M3_TRY(char32_t code, hex4());
    if (code >= 0xD800 && code < 0xDC00 && skip_exactly("\\u")) {
      M3_TRY(const char32_t low, hex4());
      if (low < 0xDC00 || low > 0xDFFF) return half_surrogate(begin);
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xD800 && code <= 0xDFFF) {
      return half_surrogate(begin);
    }
    append_utf8(read, code);
    return {};
  }

  Result<char32_t> hex4() {
    std::uint32_t code = 0;
    const char* begin = text_.data() + at_;
    const std::size_t left = std::min<std::size_t>(4, text_.size() - at_);
    const auto [end, error] = std::from_chars(begin, begin + left, code, 16);
    if (error != std::errc() || end != begin + 4) return expected("four hexadecimal digits");
    at_ += 4;
    return code;
  }

  Result<Json> number() {
    const std::size_t begin = at_;
    skip_exactly("-");
    const std::size_t digits = at_;
    skip_digits();
    if (at_ == digits) {
      at_ = begin;
      return expected("a value");
    }
    if (text_[digits] == '0' && at_ > digits + 1) {
      at_ = digits + 1;
      return expected("no digit after a leading 0");
    }
    bool integer = true;
    if (skip_exactly(".")) {
      integer = false;
      if (!skip_digits()) return expected("a digit");
    }
    if (skip_exactly("e") || skip_exactly("E")) {
      integer = false;
      if (!skip_exactly("+")) skip_exactly("-");
      if (!skip_digits()) return expected("a digit");
    }
    const std::string_view spelling = text_.substr(begin, at_ - begin);
    return integer ? integer_of(spelling) : float_of(spelling, begin);
  }

  static Result<Json> integer_of(std::string_view spelling) {
    const char* end = spelling.data() + spelling.size();
    std::int64_t signed_value = 0;
    if (std::from_chars(spelling.data(), end, signed_value).ec == std::errc())
      return Json(signed_value);
    std::uint64_t unsigned_value = 0;
    if (std::from_chars(spelling.data(), end, unsigned_value).ec == std::errc())
      return Json(unsigned_value);
    return Json::binary({spelling.begin(), spelling.end()});
  }

  static Result<Json> float_of(std::string_view spelling, std::size_t begin) {
    double read = 0;
    const auto [end, error] =
        std::from_chars(spelling.data(), spelling.data() + spelling.size(), read);
    if (error == std::errc()) return Json(read);
    // from_chars reports both ends of the range alike; what is too small is zero to Python.
    read = std::strtod(std::string(spelling).c_str(), nullptr);
    if (std::isfinite(read)) return Json(read);
    return fail("JSON number at byte {} is larger than any double: {}", begin, spelling);
  }

  Result<Json> literal(std::string_view word, Json meaning) {
    if (!skip_exactly(word)) return expected("a value");
    return meaning;
  }

  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != text_.npos) ++at_;
  }
  bool skip_exactly(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  bool skip(std::string_view word) {
    skip_space();
    return skip_exactly(word);
  }
  bool skip_digits() {
    const std::size_t begin = at_;
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
    return at_ > begin;
  }

  tl::unexpected<Error> expected(std::string_view what) const {
    if (at_ >= text_.size())
      return fail("JSON ends at byte {} where {} was expected", text_.size(), what);
    const unsigned char c = static_cast<unsigned char>(text_[at_]);
    const bool plain = c >= 0x20 && c < 0x7F;
    return fail("JSON at byte {}: expected {}, found {}", at_, what,
                plain ? fmt::format("'{}'", text_[at_]) : fmt::format("the byte 0x{:02X}", c));
  }
  static tl::unexpected<Error> half_surrogate(std::size_t begin) {
    return fail("JSON at byte {}: expected a character, found half of a surrogate pair", begin);
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

Result<Json> parse_json(std::string_view text) {
  return Reader(text).document();
}

}  // namespace m3
