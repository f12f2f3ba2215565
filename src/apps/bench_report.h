// How `m3 bench` tells its rows: as tables, as JSON, as CSV.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "apps/bench_row.h"

namespace m3 {

struct BenchMachine {
  std::string processor;
  std::string isa;  // or the backend's name, where it has no instruction sets
  int threads = 0;
};
BenchMachine machine_of(const LoadedModel& loaded);

// "reads 45.1 GB/s, multiplies ...".
std::string limits_text(const MachineLimits& limits);
// The machine and its best limits in one line.
std::string machine_line(const BenchMachine& machine, const MachineLimits& best);
nlohmann::ordered_json machine_json(const BenchMachine& machine, const MachineLimits& best);

// The name of a model and what stands above its rows.
void print_header(const std::string& model, const LoadedModel& loaded);
void print_row(const BenchRow& row);
// What each stage takes of the time, and how near it comes to its limit.
void print_stages(const std::vector<BenchRow>& rows);

nlohmann::ordered_json row_json(const BenchRow& row, const MachineLimits& best);
// A line of names, and one for each row (RFC 4180, but for the ends of lines).
std::string rows_csv(const std::vector<BenchRow>& rows, const BenchMachine& machine,
                     const MachineLimits& best);

}  // namespace m3
