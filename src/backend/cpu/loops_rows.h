// What happens along one row of float32: norms, rotation, activation, sums. Limited by reading
// and writing memory, except for exp. For isa_*.cc only.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"

namespace m3::cpu {
namespace {

// Runs body(vector index, lanes) over n elements, the last time perhaps with fewer lanes.
template <class S, typename Body>
void for_lanes(std::int64_t n, const Body& body) {
  std::int64_t i = 0;
  for (; i + S::kLanes <= n; i += S::kLanes) body(i, S::kLanes);
  if (i < n) body(i, static_cast<int>(n - i));
}

template <class S>
typename S::F load_lanes(const float* p, int lanes) {
  return lanes == S::kLanes ? S::load(p) : S::load_part(p, lanes);
}

template <class S>
void store_lanes(float* p, typename S::F x, int lanes) {
  if (lanes == S::kLanes) {
    S::store(p, x);
  } else {
    S::store_part(p, x, lanes);
  }
}

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; exp(r) by a polynomial of degree 7
// with minimax coefficients. Within 1.5 units in the last place for normal results; results below
// 2^-126 are zero; arguments above 88.37 count as 88.37; NaN stays NaN.
template <class S>
typename S::F exp_lanes(typename S::F x) {
  using F = typename S::F;
  const F lowest = S::set1(-87.33654f);
  const F bounded = S::max(lowest, S::min(S::set1(88.37626f), x));
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const F shift = S::set1(12582912.0f);
  const F shifted = S::fma(bounded, S::set1(1.44269504f), shift);
  const F n = S::sub(shifted, shift);
  // ln 2 in two parts, the first short enough for n times it to be exact.
  F r = S::fma(n, S::set1(-0.693145751953125f), bounded);
  r = S::fma(n, S::set1(-1.42860677e-6f), r);
  F p = S::set1(1.98527617612853646e-4f);
  p = S::fma(p, r, S::set1(1.39304355252534151e-3f));
  p = S::fma(p, r, S::set1(8.33336077630519867e-3f));
  p = S::fma(p, r, S::set1(4.16664853692054749e-2f));
  p = S::fma(p, r, S::set1(1.66666671633720398e-1f));
  p = S::fma(p, r, S::set1(0.5f));
  p = S::add(S::set1(1.0f), S::fma(S::mul(r, r), p, r));
  return S::zero_if_below(x, lowest, S::add_to_exponent(p, shifted));
}

template <class S>
void exp(const float* x, std::int64_t n, float* out) {
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    store_lanes<S>(out + i, exp_lanes<S>(load_lanes<S>(x + i, lanes)), lanes);
  });
}

template <class S>
void rms_norm(const float* x, const NormParams& norm, float* out) {
  typename S::F squares = S::zero();
  for_lanes<S>(norm.dim, [&](std::int64_t i, int lanes) {
    const auto v = load_lanes<S>(x + i, lanes);
    squares = S::fma(v, v, squares);
  });
  const float mean = S::sum(squares) / static_cast<float>(norm.dim);
  const auto factor = S::set1(1.0f / __builtin_sqrtf(mean + norm.eps));
  const auto one = S::set1(1.0f);
  for_lanes<S>(norm.dim, [&](std::int64_t i, int lanes) {
    const auto gain = S::add(one, load_lanes<S>(norm.weight + i, lanes));
    const auto v = S::mul(load_lanes<S>(x + i, lanes), factor);
    store_lanes<S>(out + i, S::mul(v, gain), lanes);
  });
}

template <class S>
void layer_norm(const float* x, const NormParams& norm, const float* bias, float* out) {
  auto sums = S::zero();
  for_lanes<S>(norm.dim, [&](std::int64_t i, int lanes) {
    sums = S::add(sums, load_lanes<S>(x + i, lanes));
  });
  const auto mean = S::set1(S::sum(sums) / static_cast<float>(norm.dim));
  auto squares = S::zero();
  for_lanes<S>(norm.dim, [&](std::int64_t i, int lanes) {
    alignas(64) float part[S::kLanes] = {};  // lanes beyond the end add nothing
    store_lanes<S>(part, S::sub(load_lanes<S>(x + i, lanes), mean), lanes);
    const auto v = S::load(part);
    squares = S::fma(v, v, squares);
  });
  const float variance = S::sum(squares) / static_cast<float>(norm.dim);
  const auto factor = S::set1(1.0f / __builtin_sqrtf(variance + norm.eps));
  for_lanes<S>(norm.dim, [&](std::int64_t i, int lanes) {
    const auto v = S::mul(S::sub(load_lanes<S>(x + i, lanes), mean), factor);
    const auto scaled = S::mul(v, load_lanes<S>(norm.weight + i, lanes));
    store_lanes<S>(out + i, S::add(scaled, load_lanes<S>(bias + i, lanes)), lanes);
  });
}

template <class S>
void rotate(float* x, const float* rotation, std::int64_t rotary_dim) {
  const std::int64_t half = rotary_dim / 2;
  for_lanes<S>(half, [&](std::int64_t i, int lanes) {
    const auto cosine = load_lanes<S>(rotation + i, lanes);
    const auto sine = load_lanes<S>(rotation + half + i, lanes);
    const auto a = load_lanes<S>(x + i, lanes), b = load_lanes<S>(x + half + i, lanes);
    store_lanes<S>(x + i, S::sub(S::mul(a, cosine), S::mul(b, sine)), lanes);
    store_lanes<S>(x + half + i, S::add(S::mul(b, cosine), S::mul(a, sine)), lanes);
  });
}

// n bfloat16 numbers in float32.
template <class S>
void widen_bf16(const std::uint16_t* x, std::int64_t n, float* out) {
  std::int64_t i = 0;
  for (; i + S::kLanes <= n; i += S::kLanes) S::store(out + i, S::load(x + i));
  for (; i < n; ++i) out[i] = __builtin_bit_cast(float, static_cast<std::uint32_t>(x[i]) << 16);
}

template <class S>
void to_bf16(const float* x, std::int64_t n, std::uint16_t* out) {
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    if (lanes == S::kLanes) return S::store_bf16(out + i, S::load(x + i));
    std::uint16_t part[S::kLanes];
    S::store_bf16(part, S::load_part(x + i, lanes));
    __builtin_memcpy(out + i, part, static_cast<unsigned>(lanes) * sizeof part[0]);
  });
}

template <class S>
void add(const float* x, std::int64_t n, float* sum) {
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    store_lanes<S>(sum + i, S::add(load_lanes<S>(sum + i, lanes), load_lanes<S>(x + i, lanes)),
                   lanes);
  });
}

template <class S>
void add_scaled(const float* x, float factor, std::int64_t n, float* sum) {
  const auto f = S::set1(factor);
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    const auto v = load_lanes<S>(x + i, lanes);
    store_lanes<S>(sum + i, S::fma(v, f, load_lanes<S>(sum + i, lanes)), lanes);
  });
}

template <class S>
void scale_add(const float* x, float scale, const float* addend, std::int64_t n, float* out) {
  const auto f = S::set1(scale);
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    auto v = S::mul(load_lanes<S>(x + i, lanes), f);
    if (addend != nullptr) v = S::add(v, load_lanes<S>(addend + i, lanes));
    store_lanes<S>(out + i, v, lanes);
  });
}

template <class S>
void swiglu(const float* gate, const float* up, const SwiGluParams& params, std::int64_t n,
            float* out) {
  const auto limit = S::set1(params.limit > 0 ? params.limit : __builtin_inff());
  const auto negative_limit = S::sub(S::zero(), limit);
  const auto beta = S::set1(params.beta), one = S::set1(1.0f);
  const auto minus_alpha = S::set1(-params.alpha);
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    // min and max give their second operand when it is NaN.
    const auto g = S::min(limit, load_lanes<S>(gate + i, lanes));
    const auto u = S::max(negative_limit, S::min(limit, load_lanes<S>(up + i, lanes)));
    const auto denominator = S::add(one, exp_lanes<S>(S::mul(minus_alpha, g)));
    store_lanes<S>(out + i, S::mul(S::div(g, denominator), S::add(u, beta)), lanes);
  });
}

// gelu(y) = max(y, 0) - |y| / 2 * (1 - erf(z)), z = |y| / sqrt 2. For z >= 0, 1 - erf(z) =
// (a1 t + ... + a5 t^5) exp(-z^2) with t = 1 / (1 + p z), within 1.5e-7 (Abramowitz and Stegun
// 7.1.26).
template <class S>
void gelu(const float* x, const float* bias, std::int64_t n, float* out) {
  const auto one = S::set1(1.0f), half = S::set1(0.5f);
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    auto y = load_lanes<S>(x + i, lanes);
    if (bias != nullptr) y = S::add(y, load_lanes<S>(bias + i, lanes));
    const auto size = S::max(y, S::sub(S::zero(), y));
    const auto t = S::div(one, S::fma(size, S::set1(0.3275911f * 0.70710678f), one));
    auto p = S::set1(1.061405429f);
    p = S::fma(p, t, S::set1(-1.453152027f));
    p = S::fma(p, t, S::set1(1.421413741f));
    p = S::fma(p, t, S::set1(-0.284496736f));
    p = S::fma(p, t, S::set1(0.254829592f));
    const auto gauss = exp_lanes<S>(S::mul(S::mul(size, size), S::set1(-0.5f)));
    const auto tail = S::mul(S::mul(S::mul(p, t), gauss), S::mul(half, size));
    store_lanes<S>(out + i, S::sub(S::max(y, S::zero()), tail), lanes);
  });
}

}  // namespace
}  // namespace m3::cpu
