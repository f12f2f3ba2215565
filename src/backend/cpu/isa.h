// Which instruction sets there are, which of them this machine runs, and how it reads memory.
#pragma once

#include <string_view>

#include "backend/cpu/kernels.h"
#include "base/result.h"

namespace m3::cpu {

// `name`: one of cpu_isas() or cpu_twins(), or "" for the best. Errors: unknown, or absent on this
// machine; both with a list of what there is.
Result<const Kernels*> kernels_named(std::string_view name);

// By the processor's maker.
ReadAhead read_ahead_here();

}  // namespace m3::cpu
