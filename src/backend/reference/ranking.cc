#include "backend/reference/ranking.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace m3::reference {

std::vector<std::int32_t> largest(std::span<const float> keys, std::int64_t count) {
  // A NaN compares false with everything, which is no order that a sort could work with.
  const auto rank = [&](std::int32_t i) {
    const float key = keys[static_cast<std::size_t>(i)];
    return std::isnan(key) ? -std::numeric_limits<float>::infinity() : key;
  };
  std::vector<std::int32_t> order(keys.size());
  std::iota(order.begin(), order.end(), 0);
  const auto kept = order.begin() + std::min(count, std::ssize(order));
  std::partial_sort(order.begin(), kept, order.end(), [&](std::int32_t a, std::int32_t b) {
    return rank(a) != rank(b) ? rank(a) > rank(b) : a < b;
  });
  order.erase(kept, order.end());
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace m3::reference
