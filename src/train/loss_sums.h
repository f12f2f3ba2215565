#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "train/measure.h"

namespace m3 {

// Sums of cross entropies over scored rows.
struct LossSums {
  double main = 0;
  std::vector<double> mtp;  // of each depth (spec: training §3.2)
  std::int64_t sequences = 0;
  std::optional<std::int64_t> not_finite = {};  // the first of these with a loss that is not

  // Those of the sequences that follow.
  void add(const LossSums& more);
  // main + mtp_scale / depths * Σ mtp.
  double total(double mtp_scale) const;
  // Of `scored` labels, where there are modules: loss_main and, of each module, mtp/loss_1,
  // mtp/loss_2, …: the sums over scored labels, so that loss is loss_main and the share of the
  // others' mean.
  std::vector<Measure> measures(std::int64_t scored) const;
};

}  // namespace m3
