// What this machine can do at most: the yardstick of every speed that we report.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace m3 {

namespace cpu {
struct Kernels;
}

struct MachineLimits {
  double read_gb_per_s = 0;        // reading memory far beyond the caches; 1 GB = 10^9 bytes
  int read_streams = 0;            // places that each thread read from at once in the best run
  double matrix_tflop_per_s = 0;   // multiplications in registers; a multiply-add is two
  std::string matrix_instruction;  // what was measured, as in "VDPBF16PS zmm"
  double int8_top_per_s = 0;       // the same of 8-bit integers
  std::string int8_instruction;    // as in "VPDPBUSD zmm"
};

// Keeps the memory to read from, so that limits can be measured again around every sample: other
// tenants of a machine come and go.
class MachineProbe {
 public:
  // `isa`: one of cpu_isas(), or "" for the best; its own multiplications are measured. `pool`
  // outlives the probe. Takes 1 GB of memory and a second or so.
  // Errors: an unknown or absent instruction set.
  static Result<MachineProbe> create(ThreadPool& pool, std::string_view isa);

  // Best of 1, 2, 4 and 8 streams a thread, over 4 GB each: about a second.
  MachineLimits measure();
  // With the streams that were best so far, less than 0.2 s on a desktop machine.
  MachineLimits measure_quickly();

 private:
  MachineProbe(ThreadPool& pool, const cpu::Kernels& kernels);
  double read_gb_per_s(int streams, int passes);
  MachineLimits multiply_limits(std::int64_t rounds);

  ThreadPool* pool_;
  const cpu::Kernels* kernels_;
  Buffer memory_;
  int best_streams_ = 1;
};

// create() and measure().
Result<MachineLimits> probe_machine(ThreadPool& pool, std::string_view isa);

// MachineLimits::matrix_tflop_per_s alone: no memory, and a moment.
Result<double> probe_matrix(ThreadPool& pool, std::string_view isa);

}  // namespace m3
