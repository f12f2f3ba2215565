// Which share of the picks each expert has.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace m3::reference {

// f_e = picks of e * count / all picks: 1 for each where they are balanced (spec: training §4.3).
// experts [rows, k] I32, in range.
inline std::vector<double> expert_loads(const Tensor& experts, std::int64_t count) {
  std::vector<double> loads(static_cast<std::size_t>(count), 0.0);
  const double share = static_cast<double>(count) / static_cast<double>(experts.elements());
  for (std::int64_t i = 0; i < experts.elements(); ++i)
    loads[static_cast<std::size_t>(experts.as<std::int32_t>()[i])] += share;
  return loads;
}

}  // namespace m3::reference
