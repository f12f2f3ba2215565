// The values of JSON Schema's `format` that are enforced.
#pragma once

#include <optional>
#include <string_view>

namespace m3 {

// The expression that a whole text of this format matches, or nothing for one that is not known:
// date, time, date-time, uuid, email, ipv4.
std::optional<std::string_view> format_pattern(std::string_view format);

}  // namespace m3
