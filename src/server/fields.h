// Fields of a request's JSON object. A field that is null counts as absent. Each error names the
// field, what it must be and what it is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"

namespace m3 {

ApiResult<std::optional<bool>> bool_field(const Json& object, std::string_view key);
ApiResult<std::optional<std::string>> string_field(const Json& object, std::string_view key);
// Integers beyond 64 bits are the largest or smallest that there is; 3.0 is 3.
ApiResult<std::optional<std::int64_t>> integer_field(const Json& object, std::string_view key);
ApiResult<std::optional<double>> number_field(const Json& object, std::string_view key);
// Null where it is absent.
ApiResult<const Json*> object_field(const Json& object, std::string_view key);
ApiResult<const Json*> list_field(const Json& object, std::string_view key);
// A string, or a list of strings.
ApiResult<std::vector<std::string>> strings_field(const Json& object, std::string_view key);
// A list of token ids, all below `vocab`.
ApiResult<std::vector<std::int32_t>> ids_field(const Json& object, std::string_view key,
                                               std::int64_t vocab);
ApiResult<std::vector<std::int32_t>> read_ids(const Json& list, std::string_view key,
                                              std::int64_t vocab);

}  // namespace m3
