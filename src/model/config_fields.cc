#include "model/config_fields.h"

#include <fmt/ranges.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace m3 {
namespace {

using Json = nlohmann::json;

// A value as far as a person wants to read it.
std::string shown(const Json& value) {
  constexpr std::size_t kShown = 60;
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kShown) text = text.substr(0, kShown) + "...";
  return text;
}

bool fits(const Json& value, IntegerRange range) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() &&
      value.get<std::uint64_t>() >
          static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    return false;
  const auto number = value.get<std::int64_t>();
  return number >= range.min && number <= range.max;
}

std::string describe(IntegerRange range) {
  return fmt::format("an integer from {} to {}", range.min, range.max);
}

}  // namespace

Result<Json> parse_document(std::string_view text, std::string_view where) {
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& e) {
    // Not the library's own words: they quote bytes that no terminal should see.
    return fail("{}: not valid JSON at byte {}", where, e.byte);
  } catch (const Json::exception&) {
    return fail("{}: a number is beyond what a double holds", where);
  }
}

Fields::Fields(Reading& reading, const Json& object, std::string path)
    : reading_(&reading), object_(&object), path_(std::move(path)) {
  if (!object.is_object())
    reading.mistake("expected {} to be an object, found {}", path_.empty() ? "the document" : path_,
                    shown(object));
}

std::string Fields::name_of(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

bool Fields::has(std::string_view key) const {
  if (object_->is_object()) {
    const auto at = object_->find(key);
    if (at != object_->end() && !at->is_null()) return true;
  }
  return outer_ != nullptr && outer_->has(key);
}

const Json* Fields::find(std::string_view key) {
  read_.emplace(key);
  const Json* outer = outer_ == nullptr ? nullptr : outer_->find(key);
  if (!object_->is_object()) return outer;
  const auto at = object_->find(key);
  return at != object_->end() && !at->is_null() ? &*at : outer;
}

const Json* Fields::require(std::string_view key) {
  const Json* found = find(key);
  if (found == nullptr) reading_->mistake("{} is missing", name_of(key));
  return found;
}

void Fields::expected(std::string_view key, std::string_view what, const Json& found) {
  reading_->mistake("{} is {}; expected {}", name_of(key), shown(found), what);
}

std::optional<Fields> Fields::object(std::string_view key) {
  const Json* found = find(key);
  if (found == nullptr) return std::nullopt;
  return Fields(*reading_, *found, name_of(key));
}

std::int64_t Fields::integer(std::string_view key, IntegerRange range,
                             std::optional<std::int64_t> missing) {
  const Json* found = missing ? find(key) : require(key);
  if (found == nullptr) return missing.value_or(range.min);
  if (fits(*found, range)) return found->get<std::int64_t>();
  expected(key, describe(range), *found);
  return range.min;
}

double Fields::number(std::string_view key, NumberRange range, std::optional<double> missing) {
  const Json* found = missing ? find(key) : require(key);
  if (found == nullptr) return missing.value_or(range.min);
  if (found->is_number()) {
    const auto value = found->get<double>();
    if (std::isfinite(value) && value >= range.min && value <= range.max) return value;
  }
  expected(key, fmt::format("a number from {} to {}", range.min, range.max), *found);
  return range.min;
}

bool Fields::boolean(std::string_view key, bool missing) {
  const Json* found = find(key);
  if (found == nullptr) return missing;
  if (found->is_boolean()) return found->get<bool>();
  expected(key, "true or false", *found);
  return missing;
}

std::string Fields::text(std::string_view key, std::optional<std::string> missing) {
  const Json* found = missing ? find(key) : require(key);
  if (found == nullptr) return missing.value_or("");
  if (found->is_string()) return found->get<std::string>();
  expected(key, "a text", *found);
  return "";
}

std::size_t Fields::choice(std::string_view key, std::span<const std::string_view> accepted,
                           std::optional<std::size_t> missing) {
  const Json* found = missing ? find(key) : require(key);
  if (found == nullptr) return missing.value_or(0);
  if (found->is_string())
    for (std::size_t i = 0; i < accepted.size(); ++i)
      if (accepted[i] == found->get_ref<const std::string&>()) return i;
  expected(key, fmt::format("one of: {}", fmt::join(accepted, ", ")), *found);
  return 0;
}

std::optional<std::vector<std::string>> Fields::texts(std::string_view key) {
  const Json* found = find(key);
  if (found == nullptr) return std::nullopt;
  std::vector<std::string> list;
  if (!found->is_array()) expected(key, "a list of texts", *found);
  for (const Json& item : *found) {
    if (!item.is_string()) {
      expected(key, "a list of texts only", item);
      break;
    }
    list.push_back(item.get<std::string>());
  }
  return list;
}

std::optional<std::vector<std::int64_t>> Fields::integers(std::string_view key,
                                                          IntegerRange range) {
  const Json* found = find(key);
  if (found == nullptr) return std::nullopt;
  std::vector<std::int64_t> list;
  if (!found->is_array()) expected(key, "a list of integers", *found);
  for (const Json& item : *found) {
    if (!fits(item, range)) {
      reading_->mistake("entry {} of {} is {}; expected {}", list.size(), name_of(key), shown(item),
                        describe(range));
      break;
    }
    list.push_back(item.get<std::int64_t>());
  }
  return list;
}

void Fields::require_flag(std::string_view key, bool wanted) {
  if (boolean(key, wanted) != wanted)
    reading_->mistake("{} is {}; only {} is supported", name_of(key), !wanted, wanted);
}

void Fields::require_text(std::string_view key, std::string_view wanted) {
  const std::string_view accepted[] = {wanted};
  choice(key, accepted, 0);
}

std::vector<std::string> Fields::names() const {
  std::vector<std::string> names;
  if (!object_->is_object()) return names;
  for (const auto& item : object_->items())
    if (!item.value().is_null()) names.push_back(item.key());
  return names;
}

void Fields::ignore(std::span<const std::string_view> keys) {
  read_.insert(keys.begin(), keys.end());
}

void Fields::note_unread() {
  if (!object_->is_object()) return;
  for (const auto& item : object_->items())
    if (!read_.contains(item.key())) reading_->unread.push_back(name_of(item.key()));
}

}  // namespace m3
