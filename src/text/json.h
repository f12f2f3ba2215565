// JSON as clients write it and as Python prints it, on nlohmann's ordered value type.
//
// nlohmann's parser reads the text. What builds the value from its events is ours, for four
// reasons: nlohmann's builder turns integers beyond 64 bits into doubles, nests without limit,
// searches an ordered object from its beginning for each key (quadratic), and its messages speak of
// its own classes. The writer is ours because prompts hold JSON in the layout of Python's
// json.dumps (spec: chat-and-api §2.4).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace m3 {

// Objects keep their order. JSON text has no binary values, so that kind of value is free for the
// integers that fit no machine type: the bytes are their digits. Ask is_integer() and never
// dump() a client's value; print it with python_json().
using Json = nlohmann::ordered_json;

constexpr int kJsonDepthMax = 500;    // objects and arrays inside one another
constexpr int kJsonDigitsMax = 4300;  // of an integer, as in Python

// How an error says where a text stops being JSON: by the byte of the text, or, for people who will
// look for it in an editor, by line, from 1, and byte of the line, from 0.
enum class JsonPlace : std::uint8_t { kByte, kLine };

// Reads one value and nothing behind it. Of a repeated key the last value counts, at the place of
// the first, as in Python. Errors: the byte at which the text stops being JSON in UTF-8 (the last
// byte of a misplaced word), and what was expected there; a byte order mark; numbers above the
// range of a double; integers of more than kJsonDigitsMax digits; nesting beyond kJsonDepthMax.
Result<Json> parse_json(std::string_view text, JsonPlace place = JsonPlace::kByte);

// An integer of any length.
bool is_integer(const Json& value);

// The member of an object, or nullptr when `value` is no object or has no such key.
const Json* find_member(const Json& value, std::string_view key);
// The same, but a member that is null counts as missing.
const Json* find_set_member(const Json& value, std::string_view key);
// The same, but a member that is no string counts as missing.
const std::string* find_string(const Json& value, std::string_view key);

// A flag of an object: `otherwise` when it is missing or null. Errors: any other kind of value.
Result<bool> read_flag(const Json& value, std::string_view key, bool otherwise);

// What kind of value this is, for messages: "an object", "a string", "null" ...
std::string_view kind_name(const Json& value);

// json.dumps(value, ensure_ascii=False): ", " and ": ", floats as repr prints them.
std::string python_json(const Json& value);

// str(value): strings as they are, True, None, 'quoted' strings inside lists and dictionaries.
std::string python_str(const Json& value);

}  // namespace m3
