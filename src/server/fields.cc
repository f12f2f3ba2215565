#include "server/fields.h"

#include <cmath>
#include <limits>

namespace m3 {
namespace {

tl::unexpected<ApiError> wrong_kind(std::string_view key, std::string_view expected,
                                    const Json& value) {
  return refuse(std::string(key), "must be {}, it is {}", expected,
                value.is_number() ? python_json(value) : std::string(kind_name(value)));
}

// True for 64-bit integers, longer ones, and doubles without a fraction.
bool read_integer(const Json& value, std::int64_t& result) {
  using Limits = std::numeric_limits<std::int64_t>;
  if (value.is_number_unsigned()) {
    const auto big = value.get<std::uint64_t>();
    result = static_cast<std::int64_t>(std::min(big, static_cast<std::uint64_t>(Limits::max())));
    return true;
  }
  if (value.is_number_integer()) {
    result = value.get<std::int64_t>();
    return true;
  }
  if (is_integer(value)) {  // of more digits than a machine's
    result = python_json(value).starts_with('-') ? Limits::min() : Limits::max();
    return true;
  }
  if (!value.is_number_float()) return false;
  const double number = value.get<double>();
  if (number != std::floor(number) || std::abs(number) > 9e15) return false;
  result = static_cast<std::int64_t>(number);
  return true;
}

}  // namespace

ApiResult<std::optional<bool>> bool_field(const Json& object, std::string_view key) {
  const Json* value = find_set_member(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) return wrong_kind(key, "true or false", *value);
  return value->get<bool>();
}

ApiResult<std::optional<std::string>> string_field(const Json& object, std::string_view key) {
  const Json* value = find_set_member(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) return wrong_kind(key, "a string", *value);
  return value->get<std::string>();
}

ApiResult<std::optional<std::int64_t>> integer_field(const Json& object, std::string_view key) {
  const Json* value = find_set_member(object, key);
  if (value == nullptr) return std::nullopt;
  std::int64_t integer = 0;
  if (!read_integer(*value, integer)) return wrong_kind(key, "an integer", *value);
  return integer;
}

ApiResult<std::optional<double>> number_field(const Json& object, std::string_view key) {
  const Json* value = find_set_member(object, key);
  if (value == nullptr) return std::nullopt;
  std::int64_t integer = 0;
  if (read_integer(*value, integer)) return static_cast<double>(integer);
  if (!value->is_number()) return wrong_kind(key, "a number", *value);
  return value->get<double>();
}

ApiResult<const Json*> object_field(const Json& object, std::string_view key) {
  const Json* value = find_set_member(object, key);
  if (value != nullptr && !value->is_object()) return wrong_kind(key, "an object", *value);
  return value;
}

ApiResult<const Json*> list_field(const Json& object, std::string_view key) {
  const Json* value = find_set_member(object, key);
  if (value != nullptr && !value->is_array()) return wrong_kind(key, "a list", *value);
  return value;
}

ApiResult<std::vector<std::string>> strings_field(const Json& object, std::string_view key) {
  std::vector<std::string> strings;
  const Json* value = find_set_member(object, key);
  if (value == nullptr) return strings;
  if (value->is_string()) return std::vector{value->get<std::string>()};
  if (!value->is_array()) return wrong_kind(key, "a string or a list of strings", *value);
  for (const Json& item : *value) {
    if (!item.is_string()) return wrong_kind(key, "a list of strings", item);
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

ApiResult<std::vector<std::int32_t>> read_ids(const Json& list, std::string_view key,
                                              std::int64_t vocab) {
  std::vector<std::int32_t> ids;
  for (const Json& item : list) {
    std::int64_t id = 0;
    if (!read_integer(item, id)) return wrong_kind(key, "a list of token ids", item);
    if (id < 0 || id >= vocab)
      return refuse(std::string(key), "has id {} at place {}, outside the vocabulary of {} ids", id,
                    ids.size(), vocab);
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

ApiResult<std::vector<std::int32_t>> ids_field(const Json& object, std::string_view key,
                                               std::int64_t vocab) {
  M3_TRY(const Json* list, list_field(object, key));
  if (list == nullptr) return std::vector<std::int32_t>();
  return read_ids(*list, key, vocab);
}

}  // namespace m3
