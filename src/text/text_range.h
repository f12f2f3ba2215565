// A stretch of a text.
#pragma once

#include <cstddef>

namespace m3 {

// Bytes begin up to, not including, end.
struct TextRange {
  std::size_t begin, end;
  bool operator==(const TextRange&) const = default;
};

}  // namespace m3
