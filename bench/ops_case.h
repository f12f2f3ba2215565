// One case of m3_bench_ops: its samples beside the machine's limits, as a line of CSV.
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "backend/cpu/probe.h"
#include "ops/backend.h"

namespace m3 {

struct Options {
  std::string isa;
  int threads = 0;
  bool quick = false;
  std::string filter;
};

struct Name {
  std::string op, shape, format;
};

struct Case {
  Name name;
  // Of one run; 0 where that is no limit.
  double bytes = 0, flops = 0;
  bool int8 = false;                      // multiplied on integer units
  std::function<void(std::int64_t)> run;  // its i-th run
};

// Bytes for few rows, which share nothing; operations for many.
inline Case case_of(Name name, bool few, double bytes_or_flops,
                    std::function<void(std::int64_t)> run) {
  return {std::move(name), few ? bytes_or_flops : 0, few ? 0 : bytes_or_flops, false,
          std::move(run)};
}

class Bench {
 public:
  Bench(const Options& options, Backend& backend, MachineProbe& probe, int threads)
      : options_(options), backend_(backend), probe_(probe), threads_(threads) {}

  // Asked before memory is filled for a case.
  bool wants(const Name& name) const {
    return (name.op + name.shape + name.format).find(options_.filter) != std::string::npos;
  }

  void measure(const Case& c) {
    const MachineLimits before = probe_.measure_quickly();
    std::vector<double> times;
    const double seconds_wanted = options_.quick ? 0.1 : 1.0;
    double total = 0;
    for (std::int64_t i = 0; i < 4 || (total < seconds_wanted && i < 10000); ++i) {
      const double time = seconds([&] { c.run(i); });
      total += time;
      if (i > 0) times.push_back(time);  // the first grows the scratch
    }
    std::sort(times.begin(), times.end());
    print(c, times, before, probe_.measure_quickly());
  }

 private:
  void print(const Case& c, const std::vector<double>& times, const MachineLimits& before,
             const MachineLimits& after) const {
    const auto mean = [&](double MachineLimits::*rate) { return (before.*rate + after.*rate) / 2; };
    const double peak =
        mean(c.int8 ? &MachineLimits::int8_top_per_s : &MachineLimits::matrix_tflop_per_s);
    const double reading = c.bytes / mean(&MachineLimits::read_gb_per_s) / 1e9;
    const double multiplying = c.flops / peak / 1e12;
    const bool reads = reading >= multiplying;
    const double median = times[times.size() / 2];
    fmt::print("{},{},{},{},{},{:.4f},{:.3f},{:.2f},{:.4f},{},{:.3f}\n", c.name.op, c.name.shape,
               c.name.format, backend_.isa(), threads_, median * 1e3,
               (times.back() - times.front()) / median, c.bytes / median / 1e9,
               c.flops / median / 1e12,
               reads    ? "read"
               : c.int8 ? "int8"
                        : "matrix",
               std::max(reading, multiplying) / median);
    std::fflush(stdout);
  }
  template <typename Work>
  static double seconds(const Work& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  const Options& options_;
  Backend& backend_;
  MachineProbe& probe_;
  int threads_;
};

}  // namespace m3
