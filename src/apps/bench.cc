// `m3 bench`: how fast a model runs here, beside what this machine can do at most.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/bench_limits.h"
#include "apps/bench_run.h"
#include "apps/bench_speculative_report.h"
#include "apps/bench_vision.h"
#include "apps/commands.h"
#include "apps/model_options.h"
#include "apps/option_checks.h"
#include "apps/progress_bar.h"
#include "backend/cpu/probe.h"

namespace m3 {
namespace {

struct BenchOptions {
  ModelOptions model;
  std::vector<std::int64_t> prompts = {512};
  std::vector<std::int64_t> generations = {64};
  std::vector<std::int64_t> depths = {0};
  std::vector<std::int64_t> batches = {1};
  bool vision = false;
  SpeculativeBench speculative;
  bool json = false;
};

constexpr int kSamples = 5;
// Samples of disturbed moments are dropped, up to a limit.
constexpr int kAttempts = 15;
// Nor does a machine that never gets calm hold up a case for longer than this.
constexpr double kPatienceSeconds = 60;

struct BenchRow {
  BenchCase bench_case;
  BenchSample median;
  int dropped = 0;   // samples of disturbed moments
  bool calm = true;  // false: too few samples were left, and all were taken

  std::string test() const {
    const char* kind = bench_case.vision ? "vision" : bench_case.prefill ? "pp" : "tg";
    return fmt::format("{}{}", kind, bench_case.tokens);
  }
  double tokens_per_s() const {
    const auto sequences = static_cast<double>(bound_by_matrix() ? 1 : bench_case.batch);
    return sequences * static_cast<double>(bench_case.tokens) / median.seconds;
  }
  bool bound_by_matrix() const { return bench_case.prefill || bench_case.vision; }
  double gbps() const { return static_cast<double>(median.work.bytes()) / median.seconds / 1e9; }
  double tflops() const { return static_cast<double>(median.work.flops()) / median.seconds / 1e12; }
};

double share(const BenchRow& row, const MachineLimits& limits) {
  return row.bound_by_matrix() ? row.tflops() / limits.matrix_tflop_per_s
                               : row.gbps() / limits.read_gb_per_s;
}

std::vector<BenchCase> cases_of(const BenchOptions& o) {
  std::vector<BenchCase> cases;
  if (o.vision) cases.push_back({.vision = true});
  for (const std::int64_t depth : o.depths) {
    for (const std::int64_t tokens : o.prompts)
      if (tokens > 0) cases.push_back({.prefill = true, .tokens = tokens, .depth = depth});
    for (const std::int64_t tokens : o.generations)
      for (const std::int64_t batch : o.batches)
        if (tokens > 0) cases.push_back({.tokens = tokens, .depth = depth, .batch = batch});
  }
  return cases;
}

BenchSample median_of(std::vector<BenchSample> samples) {
  const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end(),
                   [](const auto& a, const auto& b) { return a.seconds < b.seconds; });
  return *middle;
}

// The median of several samples of a BenchRun or VisionRun.
template <typename Run>
BenchRow sample_often(Run& run, const BenchCase& bench_case, Limits& limits) {
  run.sample();  // brings weights into memory and buffers into being
  BenchRow row{.bench_case = bench_case, .median = {}};
  std::vector<BenchSample> calm, disturbed;
  bool before = limits.calm_now();
  double spent = 0;
  const auto enough = [&] {
    const std::ptrdiff_t taken = std::ssize(calm) + std::ssize(disturbed);
    return std::ssize(calm) == kSamples || taken == kAttempts ||
           (taken >= kSamples && spent > kPatienceSeconds);
  };
  while (!enough()) {
    const BenchSample sample = run.sample();
    spent += sample.seconds;
    const bool after = limits.calm_now();
    (before && after ? calm : disturbed).push_back(sample);
    before = after;
  }
  row.dropped = static_cast<int>(disturbed.size());
  row.calm = std::ssize(calm) == kSamples;
  if (!row.calm) calm.insert(calm.end(), disturbed.begin(), disturbed.end());
  row.median = median_of(std::move(calm));
  return row;
}

Result<BenchRow> measure(const Model& model, const BenchCase& bench_case, Limits& limits) {
  if (bench_case.vision) {
    M3_TRY(const auto run, VisionRun::create(model));
    return sample_often(*run, {.vision = true, .tokens = run->tokens()}, limits);
  }
  M3_TRY(const auto run, BenchRun::create(model, bench_case));
  return sample_often(*run, bench_case, limits);
}

void print_machine(const MachineLimits& limits, const LoadedModel& loaded) {
  std::printf("this machine, %d threads: reads %.1f GB/s, %.3f TFLOP/s (%s)\n",
              loaded.pool.threads(), limits.read_gb_per_s, limits.matrix_tflop_per_s,
              limits.matrix_instruction.c_str());
}

void print_header() {
  std::printf("%-8s %8s %6s %12s %10s %10s %8s\n", "test", "depth", "batch", "tokens/s", "GB/s",
              "TFLOP/s", "of limit");
  std::fflush(stdout);
}

void print_row(const BenchRow& row, const Limits& limits) {
  std::printf("%-8s %8ld %6ld %12.2f %10.2f %10.4f %7.1f%%%s\n", row.test().c_str(),
              static_cast<long>(row.bench_case.depth), static_cast<long>(row.bench_case.batch),
              row.tokens_per_s(), row.gbps(), row.tflops(), 100 * share(row, limits.best()),
              row.calm ? "" : "  (the machine was never calm)");
  std::fflush(stdout);
}

nlohmann::ordered_json machine_json(const MachineLimits& limits, const LoadedModel& loaded) {
  return {{"read_gbps", limits.read_gb_per_s},
          {"bf16_tflops", limits.matrix_tflop_per_s},
          {"threads", loaded.pool.threads()},
          {"isa", loaded.backend->isa()},
          {"matrix_instruction", limits.matrix_instruction}};
}

void print_json(const std::vector<BenchRow>& rows, const Limits& limits,
                const LoadedModel& loaded) {
  nlohmann::ordered_json out;
  out["machine"] = machine_json(limits.best(), loaded);
  out["rows"] = nlohmann::ordered_json::array();
  for (const BenchRow& row : rows)
    out["rows"].push_back({{"test", row.test()},
                           {"depth", row.bench_case.depth},
                           {"batch", row.bench_case.batch},
                           {"tokens_per_s", row.tokens_per_s()},
                           {"gbps", row.gbps()},
                           {"tflops", row.tflops()},
                           {"share", share(row, limits.best())},
                           {"samples_dropped", row.dropped},
                           {"calm", row.calm}});
  std::printf("%s\n", out.dump(1).c_str());
}

std::vector<SpeculativeCase> speculative_cases(const BenchOptions& o) {
  std::vector<SpeculativeCase> cases;
  for (const BenchCase& c : cases_of(o))
    if (!c.prefill && !c.vision)
      cases.push_back({.right = o.speculative.kind == "replay",
                       .draft_tokens = o.speculative.draft_tokens,
                       .tokens = c.tokens,
                       .depth = c.depth,
                       .batch = c.batch});
  return cases;
}

// Before the machine is measured, which takes seconds.
Status check_cases(const BenchOptions& o, const Model& model) {
  if (!o.speculative.kind.empty()) {
    for (const SpeculativeCase& c : speculative_cases(o))
      M3_TRY_STATUS(SpeculativeRun::check(model, c));
    return {};
  }
  for (const BenchCase& c : cases_of(o))
    M3_TRY_STATUS(c.vision ? VisionRun::check(model) : BenchRun::check(model, c));
  return {};
}

Status run_speculative(const BenchOptions& o, const LoadedModel& loaded, Limits& limits) {
  const auto cases = speculative_cases(o);
  if (!o.json) print_speculative_header(o.speculative);
  auto rows = nlohmann::ordered_json::array();
  for (const SpeculativeCase& c : cases) {
    M3_TRY(const SpeculativeRow row, measure_speculative(*loaded.model, c, limits));
    if (!o.json) print_speculative(row, limits.best());
    rows.push_back(speculative_json(row, o.speculative, limits.best()));
  }
  const nlohmann::ordered_json out = {{"machine", machine_json(limits.best(), loaded)},
                                      {"rows", std::move(rows)}};
  if (o.json) std::printf("%s\n", out.dump(1).c_str());
  return {};
}

Status run_bench(const BenchOptions& o) {
  M3_TRY(const auto loaded, load_model(o.model));
  M3_TRY_STATUS(check_cases(o, *loaded->model));
  const auto cases = cases_of(o);
  const bool cpu = loaded->backend->name() == "cpu";
  M3_TRY(MachineProbe probe, MachineProbe::create(loaded->pool, cpu ? o.model.isa : ""));
  Limits limits(probe);
  if (!o.json) print_machine(limits.best(), *loaded);
  if (!o.speculative.kind.empty()) return run_speculative(o, *loaded, limits);
  if (!o.json) print_header();
  ProgressBar bar("measuring", "cases");
  std::vector<BenchRow> rows;
  for (const BenchCase& bench_case : cases) {
    M3_TRY(rows.emplace_back(), measure(*loaded->model, bench_case, limits));
    if (!o.json) print_row(rows.back(), limits);
    if (o.json) bar.update(std::ssize(rows), std::ssize(cases));
  }
  if (o.json) print_json(rows, limits, *loaded);
  return {};
}

void refuse_nothing(const BenchOptions& o) {
  if (!o.speculative.kind.empty() && speculative_cases(o).empty())
    throw CLI::ValidationError("--speculative", "nothing to decode: give --tg a number above 0");
  if (cases_of(o).empty())
    throw CLI::ValidationError("bench", "nothing to measure: give --pp or --tg a number above 0");
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  auto o = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand(
      "bench",
      "Measure a model beside this machine's limits. 'of limit' is, for tg, the bytes that must be "
      "read per second over the read bandwidth; for pp and vision, the operations that must be "
      "done "
      "per second over the peak of the best matrix instruction");
  add_model_options(*command, o->model);
  add_cache_options(*command, o->model.cache);
  const auto list = [&](const char* name, std::vector<std::int64_t>& values, const char* help,
                        std::int64_t least) {
    command->add_option(name, values, help)
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(CLI::Range(least, std::int64_t{1} << 40))
        ->capture_default_str();
  };
  list("--pp", o->prompts, "prompt lengths to prefill; 0: none", 0);
  list("--tg", o->generations, "steps to decode; 0: none", 0);
  list("--depth", o->depths, "tokens in the caches before, filled with random values", 0);
  list("--batch", o->batches, "sequences that decode together", 1);
  CLI::Option* vision =
      command->add_flag("--vision", o->vision, "also a picture through the vision tower");
  add_speculative_bench(*command, o->speculative)->excludes(vision);
  command->add_flag("--json", o->json, "print one JSON object");
  command->callback([o, &run] {
    refuse_nothing(*o);
    run = [o] { return run_bench(*o); };
  });
}

}  // namespace m3
