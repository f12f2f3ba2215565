// parse_json(), as declared in json.h: nlohmann's parser reads, and tells a handler of ours what it
// has read.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <unordered_map>
#include <vector>

#include "text/json.h"

namespace m3 {
namespace {

// The library shows a handler the digits of an integer beyond 64 bits only when a float of its own
// can hold the number, and its double ends at 308 digits. So the text is read with the widest float
// there is, and the values are made from the spelling.
using WideJson = nlohmann::basic_json<nlohmann::ordered_map, std::vector, std::string, bool,
                                      std::int64_t, std::uint64_t, long double>;
static_assert(std::numeric_limits<long double>::max_exponent10 >= kJsonDigitsMax);

// A character that one may print, or the value of a byte.
std::string shown_byte(char c) {
  const bool plain = c >= 0x20 && c < 0x7F;
  return plain ? fmt::format("'{}'", c) : fmt::format("0x{:02X}", static_cast<unsigned char>(c));
}

// The library's reason without its preface, which names its own classes, and without the text that
// it quotes, which may be megabytes long and need not be UTF-8.
std::string reason_in(std::string message, const std::string& last_token) {
  if (const std::size_t dash = message.find(" - "); dash != message.npos)
    message.erase(0, dash + 3);
  const std::string quotation = "; last read: '" + last_token + "'";
  if (const std::size_t at = message.find(quotation); at != message.npos)
    message.erase(at, quotation.size());
  return message;
}

// Of a repeated key the last value, at the place of the first. The values are indexed because
// nlohmann's object would search itself from its beginning for each key.
Json object_of(std::vector<std::string> keys, Json::array_t values) {
  Json object = Json::object();
  auto& members = *object.get_ptr<Json::object_t*>();
  members.reserve(keys.size());  // so that nothing in it moves: the index points into it
  std::unordered_map<std::string_view, Json*> by_key;
  by_key.reserve(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (const auto known = by_key.find(keys[i]); known != by_key.end()) {
      *known->second = std::move(values[i]);
    } else {
      auto& [key, value] = members.emplace_back(std::move(keys[i]), std::move(values[i]));
      by_key.emplace(key, &value);
    }
  }
  return object;
}

// Builds the value. Every handler returns false, with the error set, to end the reading.
class Builder : public nlohmann::json_sax<WideJson> {
 public:
  Builder(std::string_view text, JsonPlace place) : text_(text), place_(place) {}

  Json take_value() { return std::move(open_.front().values.front()); }
  Error take_error() { return std::move(error_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t, const string_t& spelling) override {
    const bool integer = spelling.find_first_not_of("-0123456789") == spelling.npos;
    if (integer) return add_long_integer(spelling);
    const double value = std::strtod(spelling.c_str(), nullptr);
    return std::isfinite(value) ? add(value) : refuse_number(spelling);
  }
  bool string(string_t& text) override { return add(std::move(text)); }
  bool binary(binary_t&) override { return stop("JSON text holds no binary values"); }

  bool start_object(std::size_t) override { return open(); }
  bool key(string_t& key) override {
    open_.back().keys.push_back(std::move(key));
    return true;
  }
  bool end_object() override {
    Open closed = close();
    return add(object_of(std::move(closed.keys), std::move(closed.values)));
  }
  bool start_array(std::size_t) override { return open(); }
  bool end_array() override { return add(close().values); }

  // `position` counts the bytes read, the wrong one included, and the end of the text as one more.
  bool parse_error(std::size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& exception) override {
    constexpr int kNumberOverflow = 406;  // among the ids that the library documents
    if (exception.id == kNumberOverflow) return refuse_number(last_token);
    const std::string reason = reason_in(exception.what(), last_token);
    if (position > text_.size()) return stop("JSON ends at {}: {}", place(text_.size()), reason);
    const std::size_t at = position - 1;
    return stop("JSON at {} ({}): {}", place(at), shown_byte(text_[at]), reason);
  }

 private:
  // An object or array whose end is yet to come. Only objects have keys, one before each value.
  struct Open {
    std::vector<std::string> keys;
    Json::array_t values;
  };

  std::string place(std::size_t at) const {
    if (place_ == JsonPlace::kByte) return fmt::format("byte {}", at);
    const std::string_view before = text_.substr(0, at);
    const auto line = 1 + std::ranges::count(before, '\n');
    return fmt::format("line {}, byte {}", line, at - (before.rfind('\n') + 1));
  }

  bool add(Json value) {
    open_.back().values.push_back(std::move(value));
    return true;
  }
  bool add_long_integer(const string_t& digits) {
    if (digits.size() > kJsonDigitsMax + std::size_t{digits.starts_with('-')})
      return refuse_number(digits);
    return add(Json::binary({digits.begin(), digits.end()}));
  }

  bool open() {
    if (open_.size() > kJsonDepthMax)
      return stop("JSON is nested deeper than {} levels", kJsonDepthMax);
    open_.emplace_back();
    return true;
  }
  Open close() {
    Open closed = std::move(open_.back());
    open_.pop_back();
    return closed;
  }

  bool refuse_number(std::string_view spelling) {
    constexpr std::size_t kShown = 40;
    return stop(
        "the JSON number {}{} is out of range: expected a double, or an integer of {} digits at "
        "most",
        spelling.substr(0, kShown), spelling.size() > kShown ? "..." : "", kJsonDigitsMax);
  }
  template <typename... Args>
  bool stop(fmt::format_string<Args...> format, Args&&... args) {
    error_.message = fmt::format(format, std::forward<Args>(args)...);
    return false;
  }

  std::string_view text_;
  JsonPlace place_;
  std::vector<Open> open_ = std::vector<Open>(1);  // the lowest is the text, which has one value
  Error error_;
};

// Two things that the library lets pass: a byte order mark, and a NUL, which it takes for the end.
Status check_bytes(std::string_view text) {
  if (text.starts_with("\uFEFF"))
    return fail("JSON at byte 0: expected a value, found a byte order mark");
  if (const std::size_t at = text.find('\0'); at != text.npos)
    return fail("JSON at byte {}: found a NUL, which strings hold as \\u0000", at);
  return {};
}

}  // namespace

Result<Json> parse_json(std::string_view text, JsonPlace place) {
  M3_TRY_STATUS(check_bytes(text));
  Builder builder(text, place);
  if (!WideJson::sax_parse(text.begin(), text.end(), &builder))
    return tl::unexpected(builder.take_error());
  return builder.take_value();
}

}  // namespace m3
