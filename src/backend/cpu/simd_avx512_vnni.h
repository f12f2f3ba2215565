// The 8-bit products of AVX-512-VNNI. For isa_*.cc only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace m3::cpu {
namespace {

// As WordQuads (loops_tile.h), in one instruction.
struct VnniQuads {
  using H = __m512i;
  static constexpr bool kHasQuads = true;
  // By name: of the compiler's intrinsic, GCC 12 copies every sum twice in a loop.
  static H dot_quads(H sum, H x, H w) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
  }
  // The same of one quad in every lane, without a register for it.
  static H dot_quads_in_memory(H sum, H x, const std::int32_t& quad) {
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(x), "m"(quad));
    return sum;
  }
  static constexpr const char* kQuadsInstruction = "VPDPBUSD zmm";
  static H probe_quads(H sum, H x, H w) { return dot_quads(sum, x, w); }
};

}  // namespace
}  // namespace m3::cpu
