#include "apps/bench_row.h"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "apps/bench_vision.h"
#include "backend/timed_backend.h"

namespace m3 {
namespace {

constexpr int kSamples = 5;
// Samples of disturbed moments are dropped, up to a limit.
constexpr int kAttempts = 15;
// Nor does a machine that never gets calm hold up a case for longer than this.
constexpr double kPatienceSeconds = 60;

// A sample and the limits before and after it.
struct Taken {
  BenchSample sample;
  MachineLimits before, after;
  bool calm;
};

// Samples are dropped for what was around them, never for what they are.
template <typename Run>
std::vector<Taken> take_samples(Run& run, Limits& limits) {
  run.sample();  // brings weights into memory and buffers into being
  std::vector<Taken> taken;
  MachineLimits before = limits.measure();
  double spent = 0;
  std::ptrdiff_t calm = 0;
  while (calm < kSamples && std::ssize(taken) < kAttempts &&
         (std::ssize(taken) < kSamples || spent <= kPatienceSeconds)) {
    const BenchSample sample = run.sample();
    const MachineLimits after = limits.measure();
    spent += sample.seconds;
    taken.push_back({sample, before, after, limits.calm(before) && limits.calm(after)});
    calm += taken.back().calm;
    before = after;
  }
  return taken;
}

void summarise(std::vector<Taken> taken, BenchRow& row) {
  const auto disturbed =
      std::stable_partition(taken.begin(), taken.end(), [](const Taken& t) { return t.calm; });
  row.dropped = static_cast<int>(taken.end() - disturbed);
  row.calm = disturbed - taken.begin() == kSamples;
  if (row.calm) taken.erase(disturbed, taken.end());
  std::vector<MachineLimits> around;
  for (const Taken& t : taken) around.insert(around.end(), {t.before, t.after});
  row.around = median_of(std::move(around));
  const auto middle = taken.begin() + std::ssize(taken) / 2;
  std::nth_element(taken.begin(), middle, taken.end(), [](const auto& a, const auto& b) {
    return a.sample.seconds < b.sample.seconds;
  });
  row.median = middle->sample;
}

// What no op took is the rest's.
template <typename Run>
PerStage<double> time_stages(Run& run, TimedBackend& timer) {
  timer.start();
  const BenchSample sample = run.sample();
  PerStage<double> seconds = timer.stop();
  seconds[Stage::kRest] += std::max(
      0.0, sample.seconds - std::accumulate(seconds.values.begin(), seconds.values.end(), 0.0));
  return seconds;
}

template <typename Run>
void measure(Run& run, const LoadedModel& loaded, Limits& limits, BenchRow& row) {
  summarise(take_samples(run, limits), row);
  row.stage_seconds = time_stages(run, *loaded.timer);
}

}  // namespace

std::string BenchRow::test() const {
  const char* kind = bench_case.vision ? "vision" : bench_case.prefill ? "pp" : "tg";
  return fmt::format("{}{}", kind, bench_case.tokens);
}

double BenchRow::tokens_per_s() const {
  const bool decodes = !bench_case.prefill && !bench_case.vision;
  const std::int64_t sequences = decodes ? bench_case.batch : 1;
  return static_cast<double>(sequences * bench_case.tokens) / median.seconds;
}

Roof BenchRow::roof(const MachineLimits& limits) const {
  return roof_of(median.work.bytes(), median.work.flops(), int8, limits);
}

Roof BenchRow::stage_roof(Stage stage) const {
  const StageWork& work = median.work[stage];
  return roof_of(work.bytes, work.flops, int8 && stage == Stage::kWeights, around);
}

double BenchRow::stage_share(Stage stage) const {
  return stage_seconds[stage] > 0 ? stage_roof(stage).seconds / stage_seconds[stage] : 0;
}

double BenchRow::stage_part(Stage stage) const {
  const auto& all = stage_seconds.values;
  return stage_seconds[stage] / std::accumulate(all.begin(), all.end(), 0.0);
}

const Matrix& main_weight(const Weights& weights) {
  for (const LayerWeights& layer : weights.layers)
    if (layer.moe && !layer.moe->gate.empty()) return layer.moe->gate[0].weight;
  const LayerWeights& first = weights.layers.at(0);
  return first.mlp ? first.mlp->gate.weight : first.attention.q.weight;
}

std::string model_name(const std::string& path) {
  const std::filesystem::path whole = std::filesystem::absolute(path).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

Result<BenchRow> measure_row(const std::string& path, const LoadedModel& loaded,
                             const BenchCase& bench_case, Limits& limits) {
  const Model& model = *loaded.model;
  const Matrix& weight = main_weight(model.weights());
  BenchRow row{.model = model_name(path),
               .format = std::string(weight.codec->name),
               .bench_case = bench_case};
  if (bench_case.vision) {
    M3_TRY(const auto run, VisionRun::create(model));
    row.bench_case.tokens = run->tokens();
    measure(*run, loaded, limits, row);
    return row;
  }
  // The cpu backend multiplies packed int8 weights as integers.
  row.int8 = weight.codec->format == Format::kInt8 && weight.packed != nullptr;
  M3_TRY(const auto run, BenchRun::create(model, bench_case));
  measure(*run, loaded, limits, row);
  return row;
}

}  // namespace m3
