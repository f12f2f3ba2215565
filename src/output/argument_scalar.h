// Single words of a tool call's arguments as JSON text (spec: chat-and-api §5.2).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace m3 {

// Nothing when the text, which has no blanks around it, is not of that type.
using MaybeJson = std::optional<std::string>;

// Of any length that parse_json() reads; + and leading zeros, which JSON does not know, are
// dropped.
MaybeJson integer_json(std::string_view text);
// As the model spelled it where that is JSON, so that 5.0 stays 5.0. Finite doubles only.
MaybeJson number_json(std::string_view text);
// true or false in any case, 1 or 0.
MaybeJson boolean_json(std::string_view text);
bool is_word(std::string_view text, std::string_view lower);

std::string json_quoted(std::string_view text);
// What stands between the quotes.
std::string json_escaped(std::string_view text);

std::string_view trimmed(std::string_view text);

}  // namespace m3
