#include "backend/cpu/isa.h"

#include <array>
#include <string>

#include "backend/cpu/amx_probe.h"
#include "backend/cpu/cpu_backend.h"
#include "base/cpu_features.h"

namespace m3 {
namespace cpu {
namespace {

struct Isa {
  const Kernels* kernels;
  bool (*present)(const CpuFeatures& machine);
};

// Best first. Intel's VDPBF16PS takes longer than the fused multiply-adds that do the same
// (Emerald Rapids, one core: 0.092 TFLOP/s, and 0.187).
constexpr std::array kIsas{
    Isa{&kAmxKernels, [](const CpuFeatures& m) { return m.amx_bf16 && amx_granted(); }},
    Isa{&kAvx512Bf16Kernels, [](const CpuFeatures& m) { return m.avx512_bf16 && !m.intel; }},
    Isa{&kAvx512VnniKernels, [](const CpuFeatures& m) { return m.avx512_vnni; }},
    Isa{&kAvx512Bf16Kernels, [](const CpuFeatures& m) { return m.avx512_bf16 && m.intel; }},
    Isa{&kAvx512Kernels, [](const CpuFeatures& m) { return m.avx512; }},
    Isa{&kAvx2Kernels, [](const CpuFeatures& m) { return m.avx2; }},
    Isa{&kX86_64Kernels, [](const CpuFeatures&) { return true; }},
};

// For tests: never the best, on no list that users see.
constexpr std::array kTwins{
    Isa{&kAmxTwinKernels, [](const CpuFeatures& m) { return m.avx512_bf16; }},
    Isa{&kAmxTwinX86_64Kernels, [](const CpuFeatures&) { return true; }},
};

std::string names_here() {
  std::string names;
  for (const std::string& name : cpu_isas()) names += (names.empty() ? "" : ", ") + name;
  return names;
}

}  // namespace

Result<const Kernels*> kernels_named(std::string_view name) {
  const CpuFeatures machine = cpu_features();
  bool known = false;
  for (const Isa& isa : kIsas) {
    if (!name.empty() && name != isa.kernels->name) continue;
    if (isa.present(machine)) return isa.kernels;
    known = true;
  }
  if (known)
    return fail("this machine lacks the instruction set '{}'; it has {}", name, names_here());
  for (const Isa& twin : kTwins)
    if (name == twin.kernels->name && twin.present(machine)) return twin.kernels;
  return fail("unknown instruction set '{}' for backend 'cpu'; this machine has {}", name,
              names_here());
}

ReadAhead read_ahead_here() {
  return cpu_features().intel ? ReadAhead::kLines : ReadAhead::kSpans;
}

}  // namespace cpu

std::vector<std::string> cpu_isas() {
  const CpuFeatures machine = cpu_features();
  std::vector<std::string> names;
  for (const cpu::Isa& isa : cpu::kIsas)
    if (isa.present(machine)) names.emplace_back(isa.kernels->name);
  return names;
}

std::vector<std::string> cpu_twins() {
  return {cpu::kTwins.front().kernels->name};
}

}  // namespace m3
