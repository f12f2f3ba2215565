// How AVX-512-BF16 multiplies bfloat16: VDPBF16PS adds 2 x 16 products to 16 sums. It treats
// subnormal numbers as zero. For isa_*.cc only.
#pragma once

#include "backend/cpu/simd_avx512.h"
#include "backend/cpu/simd_avx512_vnni.h"

namespace m3::cpu {
namespace {

struct Bf16Dot : VnniQuads {
  using Simd = Avx512;
  using F = __m512;
  using W = __m512i;
  static constexpr bool kXInPanels = false;
  static constexpr int kChainsOfBlock = 1;
  static constexpr int kRowTile = Avx512::kRowTile;
  static constexpr int kPairRows = 6, kPairRegisters = 28;
  static constexpr int kStep = 32;
  static constexpr int kStepBytes = 64;
  static constexpr int kParts = 1;
  static constexpr int kPackedStepBytes = 64;

  static W load_w(const void* p) { return Avx512::load_h(p); }
  static W part(W w, int) { return w; }
  static W load_x(const char* packed, std::int64_t step, int) {
    return Avx512::load_h(packed + step * kPackedStepBytes);
  }
  static F multiply_add(W w, W x, F sum) {
    return _mm512_dpbf16_ps(sum, __builtin_bit_cast(__m512bh, w), __builtin_bit_cast(__m512bh, x));
  }
  // As Avx512::store_bf16, in one instruction; subnormal numbers, which VDPBF16PS would take as
  // zero, become zero here.
  static void store_factor(std::uint16_t* p, F x) {
    const __m256i h = __builtin_bit_cast(__m256i, _mm512_cvtneps_pbh(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), h);
  }
  static void pack_step(const float* x, char* packed) {
    auto* out = reinterpret_cast<std::uint16_t*>(packed);
    store_factor(out, Avx512::load(x));
    store_factor(out + 16, Avx512::load(x + 16));
  }
};

}  // namespace
}  // namespace m3::cpu
