// The innermost loop: some rows of x times some rows of W, sums in registers. For isa_*.cc only.
//
// What an instruction set does differently is a small policy, D: how it widens and multiplies
// bfloat16 (WideningDot here, Bf16Dot in simd_avx512_bf16.h), how x is packed for that, and how it
// multiplies bytes.
#pragma once

#include <emmintrin.h>

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_weights.h"

namespace m3::cpu {
namespace {

// Products of unsigned bytes x and signed bytes w, four to each sum of 32 bits, where there is no
// instruction for it.
template <class S>
struct WordQuads {
  using H = typename S::H;
  static constexpr bool kHasQuads = false;
  static H dot_quads(H sum, H x, H w) { return S::dot_quads(sum, x, w); }
  static constexpr const char* kQuadsInstruction = S::kProductsInstruction;
  // The products and additions of one dot_quads, of bytes that were unpacked before.
  static H probe_quads(H sum, H x, H w) { return S::add_products(sum, x, x, w, x); }
};

// Multiplies bfloat16 in float32: even elements first, then odd ones.
template <class S, class Quads = WordQuads<S>>
struct WideningDot : Quads {
  using Simd = S;
  using F = typename S::F;
  using W = typename S::H;
  static constexpr bool kXInPanels = false;  // packed rows
  static constexpr int kChainsOfBlock = 1;   // of a panel's blocks of columns
  static constexpr int kRowTile = S::kRowTile;
  static constexpr int kPairRows = S::kPairRows;
  static constexpr int kPairRegisters = S::kPairRegisters;
  static constexpr int kStep = 2 * S::kLanes;  // columns of a vector of weights
  static constexpr int kStepBytes = kStep * 2;
  static constexpr int kParts = 2;
  static constexpr int kPackedStepBytes = kStep * 4;

  static W load_w(const void* p) { return S::load_h(p); }
  static F part(W w, int i) { return i == 0 ? S::even(w) : S::odd(w); }
  static F load_x(const char* packed, std::int64_t step, int i) {
    return S::load(reinterpret_cast<const float*>(packed + step * kPackedStepBytes) +
                   i * S::kLanes);
  }
  static F multiply_add(F w, F x, F sum) { return S::fma(w, x, sum); }
  // Rounds what will be multiplied.
  static void store_factor(std::uint16_t* p, F x) { S::store_bf16(p, x); }
  static void pack_step(const float* x, char* packed) {
    std::uint16_t rounded[kStep];
    store_factor(rounded, S::load(x));
    store_factor(rounded + S::kLanes, S::load(x + S::kLanes));
    const typename S::H h = S::load_h(rounded);
    S::store(reinterpret_cast<float*>(packed), S::even(h));
    S::store(reinterpret_cast<float*>(packed) + S::kLanes, S::odd(h));
  }
};

// Float32 throughout, for the router and for float32 caches.
template <class S>
struct F32Dot {
  using Simd = S;
  using F = typename S::F;
  using W = F;
  static constexpr int kRowTile = S::kRowTile;
  static constexpr int kStep = S::kLanes;
  static constexpr int kStepBytes = kStep * 4;
  static constexpr int kParts = 1;
  static constexpr int kPackedStepBytes = kStepBytes;

  static W load_w(const void* p) { return S::load(static_cast<const float*>(p)); }
  static F part(W w, int) { return w; }
  static F load_x(const char* packed, std::int64_t step, int) {
    return S::load(reinterpret_cast<const float*>(packed + step * kPackedStepBytes));
  }
  static F multiply_add(F w, F x, F sum) { return S::fma(w, x, sum); }
  static void pack_step(const float* x, char* packed) {
    S::store(reinterpret_cast<float*>(packed), S::load(x));
  }
};

// Columns are taken in pairs of steps, because MXFP8 is decoded so; x is padded to pairs.
template <class D>
constexpr std::int64_t kPairColumns = 2 * D::kStep;

// Panels go by whole spans.
template <class D>
std::int64_t packed_bytes(std::int64_t k) {
  return round_up(k, kSpanColumns) / D::kStep * D::kPackedStepBytes;
}

template <class D>
void pack(const float* x, std::int64_t k, void* packed) {
  auto* out = static_cast<char*>(packed);
  std::int64_t at = 0;
  for (; at + D::kStep <= k; at += D::kStep, out += D::kPackedStepBytes) D::pack_step(x + at, out);
  for (; at < round_up(k, kSpanColumns); at += D::kStep, out += D::kPackedStepBytes) {
    float part[D::kStep] = {};
    for (std::int64_t i = 0; at + i < k && i < D::kStep; ++i) part[i] = x[at + i];
    D::pack_step(part, out);
  }
}

// Columns whose products a tile adds up in whole vectors; the sums of their lanes are added in
// float32, one block of columns after the other, however many rows there are. kRowTile packed rows
// of a block take 18 KiB: with four rows of W they stay in the first-level cache.
template <class D>
constexpr std::int64_t column_block() {
  constexpr std::int64_t fits = 24 * 1024 * D::kStep / (D::kRowTile * D::kPackedStepBytes);
  return fits < kColumnBlockMax ? fits / kScaleColumns * kScaleColumns : kColumnBlockMax;
}

// The rows of W of a tile, vectors of bfloat16 or float32 in memory.
struct WeightTileRows {
  const char* base;
  std::int64_t stride;  // bytes
};

// A block of columns of a tile of rows and outputs.
struct Tile {
  const void* const* x;     // [rows]
  std::int64_t first_step;  // in x
  std::int64_t steps;       // even
  bool begins, ends;        // the first and the last columns of K
  float scale;              // of every finished sum
  float* out;               // [rows, out_stride]; between blocks the sums so far
  std::int64_t out_stride;
};

template <class S, int kOutputs>
void add_to_out(const Tile& t, const typename S::F* sums, float* out) {
  const float scale = t.ends ? t.scale : 1;
  if constexpr (kOutputs == 4) {
    __m128 block = S::sums(sums[0], sums[1], sums[2], sums[3]);
    if (!t.begins) block = _mm_add_ps(_mm_loadu_ps(out), block);
    _mm_storeu_ps(out, _mm_mul_ps(block, _mm_set1_ps(scale)));
  } else {
    for (int j = 0; j < kOutputs; ++j) {
      const float block = S::sum(sums[j]);
      out[j] = (t.begins ? block : out[j] + block) * scale;
    }
  }
}

// Vector `step` of every row of x times the one at `w` of every row of W. A vector of W is read
// again for each part of it: all of them at once would not fit beside full tiles of sums.
template <class D, int kRows, int kOutputs>
[[gnu::always_inline]] inline void multiply_step(const char* const (&x)[kRows], std::int64_t step,
                                                 const char* w, std::int64_t stride,
                                                 typename D::F (&sums)[kRows][kOutputs]) {
  // GCC 12 would fold loads of x into multiplications, and then move sums about (AVX-512, 6 rows:
  // 0.70 of the peak, 0.92 so). With 16 registers, it has to.
  constexpr bool kHoldsW = D::kParts > 1, kHoldsX = kHoldsW && D::Simd::kRegisters == 32;
#pragma GCC unroll 2
  for (int p = 0; p < D::kParts; ++p) {
    decltype(D::load_x(x[0], 0, 0)) xs[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      xs[i] = D::load_x(x[i], step, p);
      if constexpr (kHoldsX) asm("" : "+v"(xs[i]));
    }
#pragma GCC unroll 8
    for (int j = 0; j < kOutputs; ++j) {
      auto wj = D::part(D::load_w(w + j * stride), p);
      if constexpr (kHoldsW) asm("" : "+v"(wj));
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) sums[i][j] = D::multiply_add(wj, xs[i], sums[i][j]);
    }
  }
}

template <class D, int kRows, int kOutputs>
[[gnu::noinline]] void run_tile(const Tile& t, const WeightTileRows& w) {
  using S = typename D::Simd;
  const char* x[kRows];
  typename D::F sums[kRows][kOutputs];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    x[i] = static_cast<const char*>(t.x[i]) + t.first_step * D::kPackedStepBytes;
#pragma GCC unroll 8
    for (int j = 0; j < kOutputs; ++j) sums[i][j] = S::zero();
  }
  const char* base = w.base;
  for (std::int64_t step = 0; step < t.steps; ++step, base += D::kStepBytes)
    multiply_step<D>(x, step, base, w.stride, sums);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) add_to_out<S, kOutputs>(t, sums[i], t.out + i * t.out_stride);
}

}  // namespace
}  // namespace m3::cpu
