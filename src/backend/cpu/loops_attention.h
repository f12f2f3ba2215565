// Softmax over scores that come page by page or block by block, and the merging of its parts (spec:
// text-model §3.6). The products around it are those of loops_pairs.h. For isa_*.cc only.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_rows.h"

namespace m3::cpu {
namespace {

// With kOrNan NaN if any element is, else anything then.
template <class S, bool kOrNan>
float largest_of(const float* x, std::int64_t n) {
  constexpr int kChains = 4;  // one alone would wait for each of its maxima
  typename S::F chains[kChains];
  for (auto& chain : chains) chain = S::set1(-__builtin_inff());
  std::int64_t i = 0;
  for (; i + kChains * S::kLanes <= n; i += kChains * S::kLanes)
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
      const auto v = S::load(x + i + c * S::kLanes);
      chains[c] = kOrNan ? S::max_or_nan(chains[c], v) : S::max(chains[c], v);
    }
  for (; i + S::kLanes <= n; i += S::kLanes) chains[0] = S::max_or_nan(chains[0], S::load(x + i));
  auto most = chains[0];
  for (int c = 1; c < kChains; ++c) most = S::max_or_nan(most, chains[c]);
  float result = S::largest(most);
  for (; i < n; ++i) result = result != result || x[i] <= result ? result : x[i];
  return result;
}

template <class S>
float largest(const float* x, std::int64_t n) {
  return largest_of<S, true>(x, n);
}

template <class S>
float one_exp(float x) {
  float lanes[S::kLanes];
  S::store(lanes, exp_lanes<S>(S::set1(x)));
  return lanes[0];
}

template <class S>
float log_sum_exp(const float* x, std::int64_t n) {
  const float m = largest<S>(x, n);
  if (m == -__builtin_inff()) return m;
  auto sum = S::zero();
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    alignas(64) float e[S::kLanes] = {};
    store_lanes<S>(e, exp_lanes<S>(S::sub(load_lanes<S>(x + i, lanes), S::set1(m))), lanes);
    sum = S::add(sum, S::load(e));
  });
  return m + __builtin_logf(S::sum(sum));
}

// 2^x for x <= 0 (a little more does no harm): 2^n times a polynomial in x - n, |x - n| <= 1 / 2,
// with a relative error of 2e-7; results below 2^-126 may be zero. NaN stays NaN.
template <class S>
typename S::F exp2_lanes(typename S::F x) {
  const auto bounded = S::max(S::set1(-200.0f), x);
  const auto n = S::round(bounded), r = S::sub(bounded, n);
  auto p = S::set1(1.32764725e-3f);
  p = S::fma(p, r, S::set1(9.67554096e-3f));
  p = S::fma(p, r, S::set1(5.55071309e-2f));
  p = S::fma(p, r, S::set1(2.40221202e-1f));
  p = S::fma(p, r, S::set1(6.93146944e-1f));
  p = S::fma(p, r, S::set1(1.0f));
  return S::times_power_of_two(p, n);
}

// p = exp(scale * s - m) in bfloat16, then zeros; and their sum, rounded as they are: so weights
// that are divided by it still add up to one.
template <class D>
float exp_to_bf16(const float* s, std::int64_t n, float scale, float m, std::uint16_t* p,
                  std::int64_t p_stride) {
  using S = typename D::Simd;
  constexpr float kLog2E = 1.44269504f;
  const auto factor = S::set1(scale * kLog2E), shift = S::set1(-m * kLog2E);
  auto sum = S::zero();
  std::int64_t i = 0;
  for (; i + S::kLanes <= n; i += S::kLanes) {
    D::store_factor(p + i, exp2_lanes<S>(S::fma(S::load(s + i), factor, shift)));
    sum = S::add(sum, S::load(p + i));
  }
  if (i < n) {
    const int lanes = static_cast<int>(n - i);
    float part[S::kLanes] = {};
    S::store_part(part, exp2_lanes<S>(S::fma(S::load_part(s + i, lanes), factor, shift)), lanes);
    D::store_factor(p + i, S::load(part));
    sum = S::add(sum, S::load(p + i));
    i += S::kLanes;
  }
  for (; i < p_stride; i += S::kLanes) D::store_factor(p + i, S::zero());
  return S::sum(sum);
}

template <class D>
void softmax_piece(const SoftmaxPiece& piece) {
  using S = typename D::Simd;
  for (std::int64_t r = 0; r < piece.rows; ++r) {
    const float* s = piece.s + r * piece.s_stride;
    // A NaN among the scores is seen in l and p.
    const float old_m = piece.m[r], here = piece.scale * largest_of<S, false>(s, piece.tokens);
    const float m = here <= old_m ? old_m : here;
    const float factor = old_m == m ? 1 : one_exp<S>(old_m - m);
    const float sum = exp_to_bf16<D>(s, piece.tokens, piece.scale, m, piece.p + r * piece.p_stride,
                                     piece.p_stride);
    piece.m[r] = m;
    piece.factor[r] = factor;
    piece.l[r] = piece.l[r] * factor + sum;
  }
}

template <class S>
void merge(const Partial& part, std::int64_t queries, std::int64_t dim, const Partial& total) {
  for (std::int64_t q = 0; q < queries; ++q) {
    const float old_m = total.m[q], part_m = part.m[q];
    // NaN wins, so that it is seen.
    const float m = part_m <= old_m ? old_m : part_m;
    const float old_factor = old_m == m ? 1 : one_exp<S>(old_m - m);
    const float part_factor = part_m == m ? 1 : one_exp<S>(part_m - m);
    total.m[q] = m;
    total.l[q] = total.l[q] * old_factor + part.l[q] * part_factor;
    const auto a = S::set1(old_factor), b = S::set1(part_factor);
    float* o = total.o + q * dim;
    const float* added = part.o + q * dim;
    for_lanes<S>(dim, [&](std::int64_t i, int lanes) {
      const auto kept = S::mul(load_lanes<S>(o + i, lanes), a);
      store_lanes<S>(o + i, S::fma(load_lanes<S>(added + i, lanes), b, kept), lanes);
    });
  }
}

template <class S>
void widen_e4m3(const std::uint8_t* x, std::int64_t n, std::uint16_t* out) {
  constexpr int kStep = 2 * S::kLanes;
  std::int64_t i = 0;
  for (; i + kStep <= n; i += kStep) S::store_h(out + i, S::widen_e4m3(x + i));
  if (i == n) return;
  std::uint8_t part[kStep] = {};
  std::uint16_t wide[kStep];
  const auto left = static_cast<unsigned>(n - i);
  __builtin_memcpy(part, x + i, left);
  S::store_h(wide, S::widen_e4m3(part));
  __builtin_memcpy(out + i, wide, left * sizeof wide[0]);
}

}  // namespace
}  // namespace m3::cpu
