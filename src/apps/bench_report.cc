#include "apps/bench_report.h"

#include <fmt/ranges.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/machine.h"

namespace m3 {
namespace {

using nlohmann::ordered_json;

std::string_view name_of(Bound bound) {
  return kBoundNames[static_cast<std::size_t>(bound)];
}

std::string_view bound_name(const BenchRow& row) {
  return name_of(row.roof(row.around).bound);
}

template <typename Visit>
void for_each_stage(const Visit& visit) {
  for (std::size_t i = 0; i < kStageNames.size(); ++i) visit(static_cast<Stage>(i), kStageNames[i]);
}

// "91.3% 0.95r": part of the time, share of the limit, and which; "" for no time at all.
std::string stage_cell(const BenchRow& row, Stage stage) {
  const Roof roof = row.stage_roof(stage);
  if (row.stage_seconds[stage] == 0) return "";
  if (stage == Stage::kRest || roof.seconds == 0)
    return fmt::format("{:.1f}%      ", 100 * row.stage_part(stage));
  return fmt::format("{:.1f}% {:.2f}{}", 100 * row.stage_part(stage), row.stage_share(stage),
                     name_of(roof.bound).front());
}

ordered_json limits_json(const MachineLimits& limits) {
  return {{"read_gbps", limits.read_gb_per_s},
          {"bf16_tflops", limits.matrix_tflop_per_s},
          {"int8_tops", limits.int8_top_per_s}};
}

ordered_json stages_json(const BenchRow& row) {
  ordered_json stages;
  for_each_stage([&](Stage stage, std::string_view name) {
    const double seconds = row.stage_seconds[stage];
    const StageWork& work = row.median.work[stage];
    const double rate = seconds > 0 ? 1 / seconds : 0;
    ordered_json& told = stages[std::string(name)];
    told = {{"seconds", seconds}, {"part", row.stage_part(stage)}};
    // What the rest reads and writes is not counted: it need not leave the caches.
    if (stage == Stage::kRest) return;
    told["gbps"] = static_cast<double>(work.bytes) * rate / 1e9;
    told["tflops"] = static_cast<double>(work.flops) * rate / 1e12;
    told["limit"] = name_of(row.stage_roof(stage).bound);
    told["share"] = row.stage_share(stage);
  });
  return stages;
}

void append_flat(const ordered_json& object, const std::string& prefix, ordered_json& flat) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      append_flat(value, fmt::format("{}{}_", prefix, key), flat);
    } else {
      flat[prefix + key] = value;
    }
  }
}

// Quoted where it must be.
std::string csv_field(const ordered_json& value) {
  if (!value.is_string()) return value.dump();
  const std::string text = value;
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted;
  for (const char c : text) quoted.append(c == '"' ? 2 : 1, c);
  return fmt::format("\"{}\"", quoted);
}

}  // namespace

BenchMachine machine_of(const LoadedModel& loaded) {
  const std::string_view isa = loaded.backend->isa();
  return {processor_name(), std::string(isa.empty() ? loaded.backend->name() : isa),
          loaded.pool.threads()};
}

std::string limits_text(const MachineLimits& limits) {
  return fmt::format("reads {:.1f} GB/s, multiplies {:.3f} TFLOP/s ({}), int8 {:.3f} TOP/s ({})",
                     limits.read_gb_per_s, limits.matrix_tflop_per_s, limits.matrix_instruction,
                     limits.int8_top_per_s, limits.int8_instruction);
}

std::string machine_line(const BenchMachine& machine, const MachineLimits& best) {
  return fmt::format("{}, {} threads, {}: {}", machine.processor, machine.threads, machine.isa,
                     limits_text(best));
}

ordered_json machine_json(const BenchMachine& machine, const MachineLimits& best) {
  ordered_json json = {
      {"processor", machine.processor}, {"threads", machine.threads}, {"isa", machine.isa}};
  json.update(limits_json(best));
  json["read_streams"] = best.read_streams;
  json["matrix_instruction"] = best.matrix_instruction;
  json["int8_instruction"] = best.int8_instruction;
  return json;
}

void print_header(const std::string& model, const LoadedModel& loaded) {
  std::printf("%s (%s)\n", model.c_str(),
              std::string(main_weight(loaded.model->weights()).codec->name).c_str());
  std::printf("%-9s %8s %6s %12s %10s %10s %9s  %s\n", "test", "depth", "batch", "tokens/s", "GB/s",
              "TFLOP/s", "of limit", "limit");
  std::fflush(stdout);
}

void print_row(const BenchRow& row) {
  std::printf("%-9s %8ld %6ld %12.2f %10.2f %10.4f %8.1f%%  %s%s\n", row.test().c_str(),
              static_cast<long>(row.bench_case.depth), static_cast<long>(row.bench_case.batch),
              row.tokens_per_s(), row.gbps(), row.tflops(), 100 * row.share(),
              std::string(bound_name(row)).c_str(),
              row.calm ? "" : "  (the machine was never calm)");
  std::fflush(stdout);
}

void print_stages(const std::vector<BenchRow>& rows) {
  std::printf(
      "\nstages: part of the time, share of the limit (r: read, m: matrix, i: int8)\n%-9s"
      " %8s %6s",
      "test", "depth", "batch");
  for (const std::string_view name : kStageNames) std::printf(" %13s", std::string(name).c_str());
  std::printf("\n");
  const std::string* model = &rows.front().model;
  for (const BenchRow& row : rows) {
    if (row.model != *model) std::printf("%s\n", row.model.c_str());
    model = &row.model;
    std::printf("%-9s %8ld %6ld", row.test().c_str(), static_cast<long>(row.bench_case.depth),
                static_cast<long>(row.bench_case.batch));
    for_each_stage([&](Stage stage, std::string_view) {
      std::printf(" %13s", stage_cell(row, stage).c_str());
    });
    std::printf("\n");
  }
}

ordered_json row_json(const BenchRow& row, const MachineLimits& best) {
  return {{"model", row.model},
          {"format", row.format},
          {"test", row.test()},
          {"depth", row.bench_case.depth},
          {"batch", row.bench_case.batch},
          {"seconds", row.median.seconds},
          {"tokens_per_s", row.tokens_per_s()},
          {"gbps", row.gbps()},
          {"tflops", row.tflops()},
          {"limit", bound_name(row)},
          {"share", row.share()},
          {"share_of_best", row.share(best)},
          {"limits", limits_json(row.around)},
          {"samples_dropped", row.dropped},
          {"calm", row.calm},
          {"stages", stages_json(row)}};
}

std::string rows_csv(const std::vector<BenchRow>& rows, const BenchMachine& machine,
                     const MachineLimits& best) {
  std::string names, lines;
  for (const BenchRow& row : rows) {
    ordered_json flat = {{"isa", machine.isa}, {"threads", machine.threads}};
    append_flat(row_json(row, best), "", flat);
    std::vector<std::string> keys, values;
    for (const auto& [key, value] : flat.items()) {
      keys.push_back(key);
      values.push_back(csv_field(value));
    }
    names = fmt::format("{}\n", fmt::join(keys, ","));
    lines += fmt::format("{}\n", fmt::join(values, ","));
  }
  return names + lines;
}

}  // namespace m3
