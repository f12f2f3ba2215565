#include "apps/bench_speculative_report.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/drafter.h"

namespace m3 {
namespace {

constexpr int kSamples = 5;

// What the bytes of these steps allow on a machine that reads at its limit.
double allowed_tokens_per_s(const DecodeSample& s, const MachineLimits& limits) {
  return s.tokens_per_s() * limits.read_gb_per_s / s.gbps();
}

void print_decoding(const char* name, const SpeculativeRow& row, const DecodeSample& s) {
  std::printf("%-8s %8ld %6ld %12.2f %12.2f %8.1f%% %12.2f %12.2f\n", name,
              static_cast<long>(row.run_case.depth), static_cast<long>(row.run_case.batch),
              s.tokens_per_s(), allowed_tokens_per_s(s, row.around),
              100 * s.gbps() / row.around.read_gb_per_s, s.tokens_per_step(row.run_case.batch),
              s.experts);
}

nlohmann::ordered_json decoding_json(const DecodeSample& s, std::int64_t batch,
                                     const MachineLimits& limits) {
  return {{"tokens_per_s", s.tokens_per_s()},
          {"allowed_tokens_per_s", allowed_tokens_per_s(s, limits)},
          {"gbps", s.gbps()},
          {"share", s.gbps() / limits.read_gb_per_s},
          {"tokens_per_step", s.tokens_per_step(batch)},
          {"experts_per_step", s.experts}};
}

}  // namespace

CLI::Option* add_speculative_bench(CLI::App& command, SpeculativeBench& o) {
  CLI::Option* kind =
      command
          .add_option("--speculative", o.kind,
                      "instead: decode --tg tokens without and with drafts that are all right "
                      "(replay) or all wrong; or greedy answers of up to --tg tokens with drafts "
                      "of the model's own MTP modules (mtp), or looked up in what was said "
                      "(ngram). 'allowed' is the tokens per second at which the bytes of these "
                      "steps, without those of MTP modules, would be read at the full bandwidth")
          ->check(CLI::IsMember({"replay", "wrong", "mtp", "ngram"}));
  command
      .add_option("--draft-tokens", o.draft_tokens,
                  "drafts a step, at most; fewer where more do not pay")
      ->check(CLI::Range(std::int64_t{1}, kDraftTokensMax))
      ->needs(kind)
      ->capture_default_str();
  command
      .add_option("--prompts", o.prompts,
                  "with mtp and ngram, what is answered: JSON lines as m3 render reads them, "
                  "{\"messages\": [...]} (default: a few short questions)")
      ->needs(kind)
      ->check(CLI::ExistingFile);
  return kind;
}

Result<SpeculativeRow> measure_speculative(const Model& model, const SpeculativeCase& run_case,
                                           Limits& limits) {
  M3_TRY(const auto run, SpeculativeRun::create(model, run_case));
  run->sample();  // reads the prompts and finds out how many drafts pay
  SpeculativeRow row{.run_case = run_case, .median = {}};
  std::vector<SpeculativeSample> samples;
  std::vector<MachineLimits> around = {limits.measure()};
  for (int i = 0; i < kSamples; ++i) {
    const bool calm = limits.calm(around.back());
    samples.push_back(run->sample());
    around.push_back(limits.measure());
    row.disturbed += !(calm && limits.calm(around.back()));
  }
  row.around = median_of(std::move(around));
  const auto middle = samples.begin() + kSamples / 2;
  std::nth_element(samples.begin(), middle, samples.end(),
                   [](const auto& a, const auto& b) { return a.ratio() < b.ratio(); });
  row.median = std::move(*middle);
  return row;
}

void print_speculative_header(const SpeculativeBench& options) {
  static const std::map<std::string, const char*> kNames = {{"replay", "all right"},
                                                            {"wrong", "all wrong"},
                                                            {"mtp", "of the model's MTP modules"},
                                                            {"ngram", "looked up"}};
  std::printf("drafts: %s, up to %ld a step; allowed: tokens/s at the full read bandwidth\n",
              kNames.at(options.kind), static_cast<long>(options.draft_tokens));
  std::printf("%-8s %8s %6s %12s %12s %9s %12s %12s\n", "drafts", "depth", "batch", "tokens/s",
              "allowed", "of limit", "tokens/step", "experts/step");
  std::fflush(stdout);
}

void print_speculative(const SpeculativeRow& row) {
  print_decoding("without", row, row.median.plain);
  print_decoding("with", row, row.median.drafted);
  std::printf("  %.2f times as fast; accepted", row.median.ratio());
  for (const Acceptance::Count& place : row.median.places)
    std::printf(" %ld/%ld", static_cast<long>(place.accepted), static_cast<long>(place.drafted));
  if (row.disturbed > 0)
    std::printf("; the machine was disturbed in %d of %d samples", row.disturbed, kSamples);
  std::printf("\n");
  std::fflush(stdout);
}

nlohmann::ordered_json speculative_json(const SpeculativeRow& row,
                                        const SpeculativeBench& options) {
  const SpeculativeCase& c = row.run_case;
  auto drafted = nlohmann::ordered_json::array(), accepted = nlohmann::ordered_json::array();
  for (const Acceptance::Count& place : row.median.places) {
    drafted.push_back(place.drafted);
    accepted.push_back(place.accepted);
  }
  return {{"test", fmt::format("tg{}", c.tokens)},
          {"depth", c.depth},
          {"batch", c.batch},
          {"speculative", options.kind},
          {"draft_tokens", c.draft_tokens},
          {"plain", decoding_json(row.median.plain, c.batch, row.around)},
          {"drafted", decoding_json(row.median.drafted, c.batch, row.around)},
          {"speed_ratio", row.median.ratio()},
          {"drafts", {{"drafted", std::move(drafted)}, {"accepted", std::move(accepted)}}},
          {"samples_disturbed", row.disturbed}};
}

}  // namespace m3
