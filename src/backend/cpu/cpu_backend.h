// x86-64 with vector instructions: reads weights in their stored format, rounds to bfloat16 what
// enters a matrix product and what the cache holds, keeps everything else in float32.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "ops/backend.h"

namespace m3 {

// Instruction sets that this binary has and this machine can run, best first. The last is always
// "x86-64", which every 64-bit x86 runs.
std::vector<std::string> cpu_isas();

// What tests run besides: "amx-twin", the portable twin of "amx". It computes the bits of the tiles
// of AMX in ordinary registers, slowly.
std::vector<std::string> cpu_twins();

// `isa`: one of cpu_isas() or cpu_twins(), or "" for the best. `pool` outlives the backend.
// Errors: an unknown instruction set, or one that this machine lacks.
Result<std::unique_ptr<Backend>> make_cpu_backend(std::string_view isa, ThreadPool& pool);

}  // namespace m3
