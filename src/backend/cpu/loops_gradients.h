// What derivatives need beside products: right sides of PairsJob, made of weights in panels or of
// rows, and the derivatives of activations. For isa_*.cc only; S is a simd_*.h.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_panel_codecs.h"
#include "backend/cpu/loops_panel_int8.h"
#include "backend/cpu/loops_panels.h"
#include "backend/cpu/loops_rows.h"

namespace m3::cpu {
namespace {

// Pairs of columns of two outputs, (a0 a1)(b0 b1), become pairs of outputs: (a0 b0)(a1 b1).
inline std::uint64_t pairs_across(std::uint64_t x) {
  return (x & 0xffff00000000ffff) | (x & 0x00000000ffff0000) << 16 | (x & 0x0000ffff00000000) >> 16;
}

// Column pairs of a vector of outputs, from output `output` and column `column` on.
template <class S>
void store_across(typename S::H pairs, std::int64_t output, std::int64_t column, std::uint16_t* out,
                  std::int64_t out_stride) {
  alignas(64) std::uint64_t lanes[S::kLanes / 2];
  S::store_h(lanes, pairs);
  for (int i = 0; i < S::kLanes / 2; ++i) {
    const std::uint64_t x = pairs_across(lanes[i]);
    __builtin_memcpy(out + (output / 2 + i) * out_stride + 2 * column, &x, sizeof x);
  }
}

template <class S, class P>
void span_pairs_of(const std::uint8_t* span, std::uint16_t* out, std::int64_t out_stride) {
  using Shape = SpanShape<P>;
  for (int b = 0; b < Shape::kBlocks; ++b)
    for (int v = 0; v < kPanelVectors<S>; ++v) {
      const std::int64_t output = v * S::kLanes;
      const auto scale = P::scales(span + Shape::scales_at(b) + output);
      for (int i = 0; i < Shape::kLoads; ++i) {
        typename S::H w[P::kVectors];
        P::load(span + Shape::values_at(b, i) + output * 4, w);
        for (int u = 0; u < P::kVectors; ++u) {
          const auto pairs =
              P::kFormat == WeightFormat::kBF16 ? w[u] : scaled_pairs<S>(w[u], scale);
          store_across<S>(pairs, output, b * Shape::kBlockColumns + 2 * (i * P::kVectors + u), out,
                          out_stride);
        }
      }
    }
}

// Integers times scales of float16 are rounded.
template <class S>
void span_pairs_of_int8(const std::uint8_t* span, std::uint16_t* out, std::int64_t out_stride) {
  for (int b = 0; b < kInt8Blocks; ++b) {
    float scales[kPanelOutputs];
    for (int n = 0; n < kPanelOutputs; n += S::kLanes)
      S::store(scales + n, f16_scales<S>(span + int8_scales_at(b) + 2 * n));
    for (int i = 0; i < kInt8Loads; ++i)
      for (int c = 0; c < 4; ++c) {
        float numbers[kPanelOutputs];
        std::uint16_t rounded[kPanelOutputs];
        for (int n = 0; n < kPanelOutputs; ++n)
          numbers[n] = scales[n] * static_cast<std::int8_t>(span[int8_values_at(b, i) + 4 * n + c]);
        to_bf16<S>(numbers, kPanelOutputs, rounded);
        const std::int64_t column = b * kInt8Block + 4 * i + c;
        for (int n = 0; n < kPanelOutputs; ++n)
          out[n / 2 * out_stride + 2 * column + n % 2] = rounded[n];
      }
  }
}

template <class S>
void span_pairs(WeightFormat format, const std::byte* span, std::uint16_t* out,
                std::int64_t out_stride) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(span);
  switch (format) {
    case WeightFormat::kBF16:
      return span_pairs_of<S, Bf16Panel<S>>(bytes, out, out_stride);
    case WeightFormat::kMxfp8:
      return span_pairs_of<S, Mxfp8Panel<S>>(bytes, out, out_stride);
    case WeightFormat::kMxfp4:
      return span_pairs_of<S, Mxfp4Panel<S>>(bytes, out, out_stride);
    case WeightFormat::kNvfp4:
      return span_pairs_of<S, Nvfp4Panel<S>>(bytes, out, out_stride);
    case WeightFormat::kInt8:
      return span_pairs_of_int8<S>(bytes, out, out_stride);
    case WeightFormat::kF16:
    case WeightFormat::kF32:
      return;  // never in panels
  }
}

template <class S>
void to_pairs(const float* a, const float* b, std::int64_t n, std::uint16_t* out) {
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    const auto first = load_lanes<S>(a + i, lanes);
    const auto second = b != nullptr ? load_lanes<S>(b + i, lanes) : S::zero();
    if (lanes == S::kLanes) return S::store_bf16_pairs(out + 2 * i, first, second);
    std::uint16_t pairs[2 * S::kLanes];
    S::store_bf16_pairs(pairs, first, second);
    __builtin_memcpy(out + 2 * i, pairs, static_cast<unsigned>(2 * lanes) * sizeof pairs[0]);
  });
}

template <class S>
void softmax_gradient(const SoftmaxGradient& g) {
  using F = typename S::F;
  const F scale = S::set1(g.scale);
  for (std::int64_t t = 0; t < g.tokens; t += 2)
    for (std::int64_t q = 0; q < g.stride; q += S::kLanes) {
      const F log_sum = S::load(g.log_sums + q), delta = S::load(g.deltas + q);
      const F visible = S::load(g.visible + q);
      F d_scores[2] = {S::zero(), S::zero()};
      for (std::int64_t i = 0; i < 2 && t + i < g.tokens; ++i) {
        const std::int64_t at = (t + i) * g.stride + q;
        const auto seen = [&](F x) {
          return S::zero_if_below(visible, S::set1(static_cast<float>(t + i + 1)), x);
        };
        const F weight = seen(exp_lanes<S>(S::sub(S::mul(S::load(g.s + at), scale), log_sum)));
        const F d_weight = S::sub(S::load(g.d_weights + at), delta);
        d_scores[i] = seen(S::mul(S::mul(weight, d_weight), scale));
        S::store_bf16(g.weights + at, weight);
        S::store_bf16(g.d_scores + at, d_scores[i]);
      }
      S::store_bf16_pairs(g.d_score_pairs + t * g.stride + 2 * q, d_scores[0], d_scores[1]);
    }
}

template <class S>
float inner_product(const float* a, const float* b, std::int64_t n) {
  auto sum = S::zero();
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    if (lanes == S::kLanes) {
      sum = S::fma(S::load(a + i), S::load(b + i), sum);
    } else {  // lanes beyond the end add nothing
      alignas(64) float x[S::kLanes] = {}, y[S::kLanes] = {};
      S::store_part(x, S::load_part(a + i, lanes), lanes);
      S::store_part(y, S::load_part(b + i, lanes), lanes);
      sum = S::fma(S::load(x), S::load(y), sum);
    }
  });
  return S::sum(sum);
}

template <class S>
void rms_norm_gradient(const RmsNormGradient& g) {
  const NormParams& norm = g.norm;
  const auto n = static_cast<float>(norm.dim);
  const float inverse = 1.0f / __builtin_sqrtf(inner_product<S>(g.x, g.x, norm.dim) / n + norm.eps);
  const auto one = S::set1(1.0f);
  auto along = S::zero();  // of x by what the norm's own weight lets through
  for_lanes<S>(norm.dim, [&](std::int64_t i, int lanes) {
    alignas(64) float part[S::kLanes] = {};  // lanes beyond the end add nothing
    const auto d = S::mul(load_lanes<S>(g.d_out + i, lanes),
                          S::add(one, load_lanes<S>(norm.weight + i, lanes)));
    store_lanes<S>(part, S::mul(d, load_lanes<S>(g.x + i, lanes)), lanes);
    along = S::add(along, S::load(part));
  });
  const auto factor = S::set1(inverse);
  const auto shared = S::set1(-S::sum(along) / n * inverse * inverse);
  for_lanes<S>(norm.dim, [&](std::int64_t i, int lanes) {
    const auto x = load_lanes<S>(g.x + i, lanes), d_out = load_lanes<S>(g.d_out + i, lanes);
    const auto d = S::mul(d_out, S::add(one, load_lanes<S>(norm.weight + i, lanes)));
    auto d_x = S::mul(factor, S::fma(shared, x, d));
    if (g.adds) d_x = S::add(d_x, load_lanes<S>(g.d_x + i, lanes));
    if (g.d_weight != nullptr)
      store_lanes<S>(g.d_weight + i,
                     S::fma(d_out, S::mul(x, factor), load_lanes<S>(g.d_weight + i, lanes)), lanes);
    store_lanes<S>(g.d_x + i, d_x, lanes);
  });
}

// Where a clamp cut, the derivative is 0; at exactly the limit it is not.
template <class S>
void swiglu_gradient(const float* gate, const float* up, const SwiGluParams& params,
                     const float* d_out, std::int64_t n, float* d_gate, float* d_up) {
  const auto limit = S::set1(params.limit > 0 ? params.limit : __builtin_inff());
  const auto negative_limit = S::sub(S::zero(), limit);
  const auto beta = S::set1(params.beta), one = S::set1(1.0f);
  const auto alpha = S::set1(params.alpha), minus_alpha = S::set1(-params.alpha);
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    const auto gate_in = load_lanes<S>(gate + i, lanes), up_in = load_lanes<S>(up + i, lanes);
    const auto d = load_lanes<S>(d_out + i, lanes);
    const auto g = S::min(limit, gate_in);
    const auto u = S::max(negative_limit, S::min(limit, up_in));
    const auto z = S::div(one, S::add(one, exp_lanes<S>(S::mul(minus_alpha, g))));
    const auto slope =
        S::mul(z, S::fma(S::mul(alpha, g), S::sub(one, z), one));  // z (1 + alpha g (1 - z))
    const auto by_gate = S::mul(d, S::mul(S::add(u, beta), slope));
    const auto by_up = S::mul(d, S::mul(g, z));
    store_lanes<S>(d_gate + i, S::zero_if_below(limit, gate_in, by_gate), lanes);
    store_lanes<S>(d_up + i,
                   S::zero_if_below(up_in, negative_limit, S::zero_if_below(limit, up_in, by_up)),
                   lanes);
  });
}

}  // namespace
}  // namespace m3::cpu
