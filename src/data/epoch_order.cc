#include "data/epoch_order.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/random.h"

namespace m3 {

// Fisher and Yates's.
std::vector<std::int64_t> epoch_order(std::int64_t count, std::uint64_t seed, std::uint64_t epoch) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t left = count; left > 1; --left) {
    const double u = uniform_at(seed, epoch, static_cast<std::uint64_t>(left));
    const auto drawn = static_cast<std::int64_t>(u * static_cast<double>(left));
    std::swap(order[static_cast<std::size_t>(std::min(drawn, left - 1))],
              order[static_cast<std::size_t>(left - 1)]);
  }
  return order;
}

}  // namespace m3
