#include "backend/registry.h"

#include <fmt/ranges.h>

#include "backend/cpu/cpu_backend.h"
#include "backend/reference/reference_backend.h"

namespace m3 {
namespace {

std::string names_of(const std::vector<BackendInfo>& backends) {
  std::string names;
  for (const BackendInfo& b : backends) {
    if (!names.empty()) names += ", ";
    names += b.absent.empty() ? b.name : b.name + " (absent)";
  }
  return names;
}

}  // namespace

std::vector<BackendInfo> known_backends() {
  return {{"cpu", "", cpu_isas(), cpu_twins()},
          {"reference", "", {}, {}},
          {"cuda", "this build has no CUDA kernels yet", {}, {}},
          {"hip", "this build has no HIP kernels yet", {}, {}}};
}

Result<std::unique_ptr<Backend>> make_backend(std::string_view name, std::string_view isa,
                                              ThreadPool& pool) {
  const auto backends = known_backends();
  for (const BackendInfo& b : backends) {
    if (b.name != name) continue;
    if (!b.absent.empty()) return fail("backend '{}' is absent: {}", name, b.absent);
    if (name == "cpu") return make_cpu_backend(isa, pool);
    if (!isa.empty()) return fail("backend '{}' has no instruction sets to choose from", name);
    return make_reference_backend(pool);
  }
  return fail("unknown backend '{}'; known are {}", name, names_of(backends));
}

}  // namespace m3
