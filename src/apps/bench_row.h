// One line of `m3 bench`: a case, its samples, and what stands beside them.
#pragma once

#include <string>

#include "apps/bench_limits.h"
#include "apps/bench_run.h"
#include "apps/model_options.h"

namespace m3 {

struct BenchRow {
  std::string model;   // name of its directory
  std::string format;  // in which most of its weights are stored
  BenchCase bench_case;
  BenchSample median;
  PerStage<double> stage_seconds;  // of one more sample, in which each op was waited for
  bool int8 = false;               // most of its products run on integer units
  MachineLimits around;            // medians of what was measured beside the samples that count
  int dropped = 0;                 // samples of disturbed moments
  bool calm = true;                // false: too few samples were left, and all count

  // "pp512", "tg64", "vision576".
  std::string test() const;
  double tokens_per_s() const;
  double gbps() const { return static_cast<double>(median.work.bytes()) / median.seconds / 1e9; }
  double tflops() const { return static_cast<double>(median.work.flops()) / median.seconds / 1e12; }
  Roof roof(const MachineLimits& limits) const;
  double share(const MachineLimits& limits) const { return roof(limits).seconds / median.seconds; }
  double share() const { return share(around); }

  // The same of a stage. Work that is nothing, as of the rest, has a share of 0.
  Roof stage_roof(Stage stage) const;
  double stage_share(Stage stage) const;
  // Of the time of all stages.
  double stage_part(Stage stage) const;
};

// The weight that stands for a model's format: of the routed experts, where there are some.
const Matrix& main_weight(const Weights& weights);
// The last name in a path.
std::string model_name(const std::string& path);

// The median of several samples. `loaded` has a timer. Errors: those of BenchRun::create() and
// VisionRun::create().
Result<BenchRow> measure_row(const std::string& path, const LoadedModel& loaded,
                             const BenchCase& bench_case, Limits& limits);

}  // namespace m3
