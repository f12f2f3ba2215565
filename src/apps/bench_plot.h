// The picture of `m3 bench --plot`: a bar for each case, as high as its share of the limit.
#pragma once

#include <string>
#include <vector>

#include "apps/bench_row.h"

namespace m3 {

// An SVG document. Bars of one test, depth and batch stand together, one for each model; in each
// its tokens per second. `machine` is the line below the title.
std::string plot_svg(const std::vector<BenchRow>& rows, const std::string& machine);

}  // namespace m3
