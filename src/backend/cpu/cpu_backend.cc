#include "backend/cpu/cpu_backend.h"

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/isa.h"

namespace m3 {

Result<std::unique_ptr<Backend>> make_cpu_backend(std::string_view isa, ThreadPool& pool) {
  M3_TRY(const cpu::Kernels* kernels, cpu::kernels_named(isa));
  return std::make_unique<cpu::CpuBackend>(*kernels, cpu::read_ahead_here(), pool);
}

}  // namespace m3
