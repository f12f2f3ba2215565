#include "backend/cpu/probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "backend/cpu/isa.h"
#include "backend/cpu/kernels.h"

namespace m3 {
namespace {

constexpr std::int64_t kMemoryBytes = 1'000'000'000;
// Each number of streams has its turn twice, so that one disturbed moment does not decide for all.
constexpr int kTurns = 2;
constexpr int kPasses = 2;  // 2 GB
constexpr std::int64_t kRounds = 4'000'000;
constexpr std::int64_t kQuickRounds = 400'000;
constexpr int kRepeats = 3;  // the best of them counts: a limit is what is possible
constexpr int kStreams[] = {1, 2, 4, 8};

template <typename Work>
double seconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Runs work(thread) on every thread of the pool. Each call is long, so no thread takes two.
template <typename Work>
void on_all_threads(ThreadPool& pool, const Work& work) {
  pool.parallel_for(pool.threads(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) work(i);
  });
}

// `flops` of one round on one thread, and how long all threads take for `rounds` of them.
template <typename Work>
double tflop_per_s(ThreadPool& pool, std::int64_t rounds, double flops, const Work& work) {
  double best = 1e30;
  for (int i = 0; i < kRepeats; ++i)
    best =
        std::min(best, seconds([&] { on_all_threads(pool, [&](std::int64_t) { work(rounds); }); }));
  return static_cast<double>(rounds) * flops * pool.threads() / best / 1e12;
}

double matrix_tflop_per_s(ThreadPool& pool, const cpu::Kernels& kernels, std::int64_t rounds) {
  return tflop_per_s(pool, rounds, kernels.flops_per_round,
                     [&](std::int64_t n) { kernels.multiply_in_registers(n); });
}

}  // namespace

Result<MachineProbe> MachineProbe::create(ThreadPool& pool, std::string_view isa) {
  M3_TRY(const cpu::Kernels* kernels, cpu::kernels_named(isa));
  return MachineProbe(pool, *kernels);
}

MachineProbe::MachineProbe(ThreadPool& pool, const cpu::Kernels& kernels)
    : pool_(&pool), kernels_(&kernels), memory_(kMemoryBytes) {
  // Written once: untouched pages are one page of zeros, which the cache holds.
  const std::int64_t share = kMemoryBytes / pool.threads();
  on_all_threads(pool, [&](std::int64_t i) {
    std::memset(memory_.data() + i * share, 1, static_cast<std::size_t>(share));
  });
}

double MachineProbe::read_gb_per_s(int streams, int passes) {
  const std::int64_t share = kMemoryBytes / pool_->threads() / 4096 * 4096;
  std::atomic<std::uint64_t> seen{0};  // so that no read is idle
  const double time = seconds([&] {
    on_all_threads(*pool_, [&](std::int64_t i) {
      for (int pass = 0; pass < passes; ++pass)
        seen ^= kernels_->read_streams(memory_.data() + i * share, share, streams);
    });
  });
  return static_cast<double>(share * pool_->threads()) * passes / time / 1e9;
}

MachineLimits MachineProbe::multiply_limits(std::int64_t rounds) {
  MachineLimits limits;
  limits.matrix_instruction = kernels_->multiply_instruction;
  limits.matrix_tflop_per_s = matrix_tflop_per_s(*pool_, *kernels_, rounds);
  limits.int8_instruction = kernels_->multiply_int8_instruction;
  limits.int8_top_per_s =
      tflop_per_s(*pool_, rounds, kernels_->int8_ops_per_round,
                  [&](std::int64_t n) { kernels_->multiply_int8_in_registers(n); });
  return limits;
}

MachineLimits MachineProbe::measure() {
  MachineLimits limits = multiply_limits(kRounds);
  for (int turn = 0; turn < kTurns; ++turn)
    for (const int streams : kStreams) {
      const double rate = read_gb_per_s(streams, kPasses);
      if (rate <= limits.read_gb_per_s) continue;
      limits.read_gb_per_s = rate;
      limits.read_streams = best_streams_ = streams;
    }
  return limits;
}

MachineLimits MachineProbe::measure_quickly() {
  MachineLimits limits = multiply_limits(kQuickRounds);
  limits.read_gb_per_s = read_gb_per_s(best_streams_, 3);
  limits.read_streams = best_streams_;
  return limits;
}

Result<double> probe_matrix(ThreadPool& pool, std::string_view isa) {
  M3_TRY(const cpu::Kernels* kernels, cpu::kernels_named(isa));
  return matrix_tflop_per_s(pool, *kernels, kQuickRounds);
}

Result<MachineLimits> probe_machine(ThreadPool& pool, std::string_view isa) {
  M3_TRY(MachineProbe probe, MachineProbe::create(pool, isa));
  return probe.measure();
}

}  // namespace m3
