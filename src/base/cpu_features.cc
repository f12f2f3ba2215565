#include "base/cpu_features.h"

#include <cpuid.h>

#include <cstdint>

namespace m3 {
namespace {

// The state components that the operating system saves (XCR0).
std::uint64_t saved_states() {
  std::uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

}  // namespace

CpuFeatures cpu_features() {
  CpuFeatures found;
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return found;
  found.intel = b == signature_INTEL_ebx && c == signature_INTEL_ecx && d == signature_INTEL_edx;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool fma = c & (1u << 12), osxsave = c & (1u << 27), f16c = c & (1u << 29);
  if (!osxsave) return found;
  const std::uint64_t saved = saved_states();
  const bool ymm = (saved & 0x6) == 0x6;
  const bool zmm = ymm && (saved & 0xe0) == 0xe0;
  const bool tiles = (saved & 0x60000) == 0x60000;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  found.avx2 = ymm && fma && f16c && (b & (1u << 5));
  const std::uint32_t avx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F DQ BW VL
  found.avx512 = found.avx2 && zmm && (b & avx512) == avx512;
  found.avx512_vnni = found.avx512 && (c & (1u << 11));
  const bool amx_tile = d & (1u << 24), amx_bf16 = d & (1u << 22);
  std::uint32_t a1 = 0;
  if (__get_cpuid_count(7, 1, &a1, &b, &c, &d))
    found.avx512_bf16 = found.avx512_vnni && (a1 & (1u << 5));
  found.amx_bf16 = found.avx512_bf16 && tiles && amx_tile && amx_bf16;
  return found;
}

}  // namespace m3
