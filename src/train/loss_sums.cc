#include "train/loss_sums.h"

#include <fmt/core.h>

#include <algorithm>
#include <numeric>

namespace m3 {

void LossSums::add(const LossSums& more) {
  if (!not_finite && more.not_finite) not_finite = sequences + *more.not_finite;
  sequences += more.sequences;
  main += more.main;
  mtp.resize(more.mtp.size());
  for (std::size_t d = 0; d < mtp.size(); ++d) mtp[d] += more.mtp[d];
}

double LossSums::total(double mtp_scale) const {
  const double depths = static_cast<double>(std::max<std::size_t>(1, mtp.size()));
  return main + mtp_scale / depths * std::accumulate(mtp.begin(), mtp.end(), 0.0);
}

std::vector<Measure> LossSums::measures(std::int64_t scored) const {
  if (mtp.empty() || scored == 0) return {};
  const auto labels = static_cast<double>(scored);
  std::vector<Measure> measures = {{"loss_main", main / labels}};
  for (std::size_t d = 0; d < mtp.size(); ++d)
    measures.push_back({fmt::format("mtp/loss_{}", d + 1), mtp[d] / labels});
  return measures;
}

}  // namespace m3
