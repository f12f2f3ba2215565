// The ranking rule that expert choice and block selection share.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace m3::reference {

// Indices of the min(count, keys) largest keys, in ascending order of index. Of equal keys the one
// with the lower index comes first (spec: text-model §3.5.6, §3.8.1). A NaN ranks as minus
// infinity; callers for whom the spec has another rank replace it before.
std::vector<std::int32_t> largest(std::span<const float> keys, std::int64_t count);

}  // namespace m3::reference
