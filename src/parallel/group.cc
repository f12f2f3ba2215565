#include "parallel/group.h"

#include <cstring>

#include "base/check.h"

namespace m3 {

void LocalGroup::all_reduce_sum(const Tensor&) {}

void LocalGroup::all_gather_columns(const Tensor& part, const Tensor& whole) {
  M3_CHECK(part.bytes() == whole.bytes(), "{} gathered into {}", part.describe(), whole.describe());
  if (part.data != whole.data)
    std::memcpy(whole.data, part.data, static_cast<std::size_t>(part.bytes()));
}

}  // namespace m3
