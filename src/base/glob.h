// Shell patterns over names.
#pragma once

#include <string_view>

namespace m3 {

// `*` stands for any characters, dots and none included, `?` for one; everything else for itself.
// Time is at most the product of the two lengths.
bool glob_matches(std::string_view pattern, std::string_view name);

}  // namespace m3
