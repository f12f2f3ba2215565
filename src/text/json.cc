#include "text/json.h"

namespace m3 {

bool is_integer(const Json& value) {
  return value.is_number_integer() || value.is_binary();
}

const Json* find_member(const Json& value, std::string_view key) {
  const auto* members = value.get_ptr<const Json::object_t*>();
  if (members == nullptr) return nullptr;
  for (const auto& [name, member] : *members)
    if (name == key) return &member;
  return nullptr;
}

const Json* find_set_member(const Json& value, std::string_view key) {
  const Json* member = find_member(value, key);
  return member != nullptr && member->is_null() ? nullptr : member;
}

const std::string* find_string(const Json& value, std::string_view key) {
  const Json* member = find_member(value, key);
  return member == nullptr ? nullptr : member->get_ptr<const std::string*>();
}

Result<bool> read_flag(const Json& value, std::string_view key, bool otherwise) {
  const Json* member = find_set_member(value, key);
  if (member == nullptr) return otherwise;
  if (!member->is_boolean())
    return fail("\"{}\" must be true or false, it is {}", key, kind_name(*member));
  return member->get<bool>();
}

std::string_view kind_name(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  if (value.is_string()) return "a string";
  if (value.is_boolean()) return "a boolean";
  if (value.is_null()) return "null";
  return "a number";
}

}  // namespace m3
