// Softmax and P V over one page of the cache (spec: text-model §3.6). For isa_*.cc only.
//
// Q Kᵀ is the dot loop: the query heads are rows of x, the keys rows of W. P V runs the other way,
// along the tokens, with lanes over head_dim and P in float32: each vector of V is widened once for
// kValueHeads heads, which makes it a loop of multiplications in registers.
//
// Measured on AMD EPYC (Zen 4), per core, a page of 128 tokens x 128, 16 query heads, avx512-bf16:
// Q Kᵀ 4.2 us (0.54 of the bfloat16 peak), softmax 1.1 us, P V 5.1 us (0.88 of the float32 peak).
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_rows.h"

namespace m3::cpu {
namespace {

// NaN if any element is.
template <class S>
float largest(const float* x, std::int64_t n) {
  constexpr int kChains = 4;  // one alone would wait for each of its maxima
  typename S::F chains[kChains];
  for (auto& chain : chains) chain = S::set1(-__builtin_inff());
  std::int64_t i = 0;
  for (; i + kChains * S::kLanes <= n; i += kChains * S::kLanes)
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c)
      chains[c] = S::max_or_nan(chains[c], S::load(x + i + c * S::kLanes));
  for (; i + S::kLanes <= n; i += S::kLanes) chains[0] = S::max_or_nan(chains[0], S::load(x + i));
  auto most = chains[0];
  for (int c = 1; c < kChains; ++c) most = S::max_or_nan(most, chains[c]);
  float lanes[S::kLanes];
  S::store(lanes, most);
  float result = lanes[0];
  const auto fold = [&](float v) { result = result != result || v <= result ? result : v; };
  for (int l = 1; l < S::kLanes; ++l) fold(lanes[l]);
  for (; i < n; ++i) fold(x[i]);
  return result;
}

// x = exp(x - m), and their sum.
template <class S>
float exp_in_place(float* x, std::int64_t n, float m) {
  auto sum = S::zero();
  const auto shift = S::set1(m);
  for_lanes<S>(n, [&](std::int64_t i, int lanes) {
    const auto e = exp_lanes<S>(S::sub(load_lanes<S>(x + i, lanes), shift));
    store_lanes<S>(x + i, e, lanes);
    // The lanes beyond the end hold exp(-m); what was stored is read back without them.
    sum = S::add(sum, load_lanes<S>(x + i, lanes));
  });
  return S::sum(sum);
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

template <class S>
void softmax_page(float* s, std::int64_t stride, std::int64_t heads, std::int64_t tokens,
                  float scale, float* m, float* l) {
  for (std::int64_t h = 0; h < heads; ++h) {
    float* row = s + h * stride;
    scale_add<S>(row, scale, nullptr, tokens, row);
    m[h] = largest<S>(row, tokens);
    l[h] = exp_in_place<S>(row, tokens, m[h]);
  }
}

// p = exp(scale * s - m) in bfloat16, then zeros; the sum of what was rounded.
template <class D>
float exp_to_bf16(const float* s, std::int64_t n, float scale, float m, std::uint16_t* p,
                  std::int64_t p_stride) {
  using S = typename D::Simd;
  const auto factor = S::set1(scale), shift = S::set1(-m);
  auto sum = S::zero();
  std::int64_t i = 0;
  for (; i + S::kLanes <= n; i += S::kLanes) {
    const auto e = exp_lanes<S>(S::fma(S::load(s + i), factor, shift));
    D::store_factor(p + i, e);
    sum = S::add(sum, e);
  }
  if (i < n) {
    const int lanes = static_cast<int>(n - i);
    float part[S::kLanes] = {};
    S::store_part(part, exp_lanes<S>(S::fma(S::load_part(s + i, lanes), factor, shift)), lanes);
    D::store_factor(p + i, S::load(part));
    sum = S::add(sum, S::load(part));
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
    const float old_m = piece.m[r], here = piece.scale * largest<S>(s, piece.tokens);
    // NaN wins, so that it is seen.
    const float m = here <= old_m ? old_m : here;
    const float factor = old_m == m ? 1 : one_exp<S>(old_m - m);
    const float sum = exp_to_bf16<D>(s, piece.tokens, piece.scale, m, piece.p + r * piece.p_stride,
                                     piece.p_stride);
    piece.m[r] = m;
    piece.factor[r] = factor;
    piece.l[r] = piece.l[r] * factor + sum;
  }
}

// Two vectors of dim (fewer lanes at its end) for kHeads heads, summed over all tokens.
template <class S, typename T, int kHeads>
void weigh_columns(const ValuesJob& job, std::int64_t head, std::int64_t column) {
  using F = typename S::F;
  const std::int64_t left = job.dim - column;
  const int first = left < S::kLanes ? static_cast<int>(left) : S::kLanes;
  const int second = left < 2 * S::kLanes ? static_cast<int>(left) - first : S::kLanes;
  const bool whole = second == S::kLanes;
  const float* p = job.p + head * job.p_stride;
  const T* v = static_cast<const T*>(job.values) + column;
  F sums[kHeads][2];
#pragma GCC unroll 8
  for (int h = 0; h < kHeads; ++h) sums[h][0] = sums[h][1] = S::zero();
  for (std::int64_t t = 0; t < job.tokens; ++t, v += job.dim) {
    const F v0 = whole ? S::load(v) : S::load_part(v, first);
    const F v1 = whole ? S::load(v + S::kLanes) : S::load_part(v + first, second);
#pragma GCC unroll 8
    for (int h = 0; h < kHeads; ++h) {
      const F weight = S::set1(p[h * job.p_stride + t]);
      sums[h][0] = S::fma(weight, v0, sums[h][0]);
      sums[h][1] = S::fma(weight, v1, sums[h][1]);
    }
  }
  float* out = job.out + head * job.dim + column;
#pragma GCC unroll 8
  for (int h = 0; h < kHeads; ++h, out += job.dim) {
    store_lanes<S>(out, sums[h][0], first);
    store_lanes<S>(out + first, sums[h][1], second);
  }
}

template <class S, typename T>
void weigh_values_of(const ValuesJob& job) {
  std::int64_t head = 0;
  for (; head + S::kValueHeads <= job.heads; head += S::kValueHeads)
    for (std::int64_t c = 0; c < job.dim; c += 2 * S::kLanes)
      weigh_columns<S, T, S::kValueHeads>(job, head, c);
  for (; head < job.heads; ++head)
    for (std::int64_t c = 0; c < job.dim; c += 2 * S::kLanes) weigh_columns<S, T, 1>(job, head, c);
}

template <class S>
void weigh_values(const ValuesJob& job) {
  if (job.bf16) {
    weigh_values_of<S, std::uint16_t>(job);
  } else {
    weigh_values_of<S, float>(job);
  }
}

template <class S>
void merge(const Partial& page, std::int64_t heads, std::int64_t dim, const Partial& total) {
  for (std::int64_t h = 0; h < heads; ++h) {
    const float old_m = total.m[h], page_m = page.m[h];
    // NaN wins, so that it is seen.
    const float m = page_m <= old_m ? old_m : page_m;
    const float old_factor = old_m == m ? 1 : one_exp<S>(old_m - m);
    const float page_factor = page_m == m ? 1 : one_exp<S>(page_m - m);
    total.m[h] = m;
    total.l[h] = total.l[h] * old_factor + page.l[h] * page_factor;
    const auto a = S::set1(old_factor), b = S::set1(page_factor);
    float* o = total.o + h * dim;
    const float* added = page.o + h * dim;
    for_lanes<S>(dim, [&](std::int64_t i, int lanes) {
      const auto kept = S::mul(load_lanes<S>(o + i, lanes), a);
      store_lanes<S>(o + i, S::fma(load_lanes<S>(added + i, lanes), b, kept), lanes);
    });
  }
}

}  // namespace
}  // namespace m3::cpu
