// Routing, dispatch and combination of experts (spec: text-model §3.8). The experts' products are
// in linear.cc. The router reads x rounded to bfloat16, as every product does; its weights and
// scores are float32: rounding those changes picks.
#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_gradients.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/reference/expert_loads.h"
#include "ops/arguments.h"
#include "tensor/numeric.h"

namespace m3::cpu {
namespace {

// Router scores of one row from its logits, in place. NaN and infinity become 0, so that a broken
// row still gets k different experts.
void score_experts(const Kernels& kernels, RouterScore score, std::int64_t experts, float* s) {
  if (score == RouterScore::kSigmoid) {
    kernels.scale_add(s, -1, nullptr, experts, s);
    kernels.exp(s, experts, s);
    for (std::int64_t e = 0; e < experts; ++e) s[e] = 1 / (1 + s[e]);
  } else {
    const float largest = kernels.largest(s, experts);
    for (std::int64_t e = 0; e < experts; ++e) s[e] -= largest;
    kernels.exp(s, experts, s);
    float sum = 0;
    for (std::int64_t e = 0; e < experts; ++e) sum += s[e];
    for (std::int64_t e = 0; e < experts; ++e) s[e] /= sum;
  }
  for (std::int64_t e = 0; e < experts; ++e)
    if (!std::isfinite(s[e])) s[e] = 0;
}

// The k experts with the largest s + bias, ties to the lower id; ascending. A handful of picks of
// a hundred or so: k passes are quicker than sorting. s + bias is finite.
void pick_experts(const float* s, const float* bias, std::int64_t experts, std::int64_t k,
                  std::int32_t* picks) {
  for (std::int64_t j = 0; j < k; ++j) {
    std::int64_t best = -1;
    float best_key = 0;
    for (std::int64_t e = 0; e < experts; ++e) {
      const float key = bias != nullptr ? s[e] + bias[e] : s[e];
      if (best >= 0 && !(key > best_key)) continue;
      if (std::find(picks, picks + j, e) != picks + j) continue;
      best = e;
      best_key = key;
    }
    picks[j] = static_cast<std::int32_t>(best);
  }
  std::sort(picks, picks + k);
}

// The bias is no part of the weights.
void weigh_experts(const float* s, const std::int32_t* picks, std::int64_t k, float* weights) {
  float sum = 0;
  for (std::int64_t j = 0; j < k; ++j) sum += s[picks[j]];
  for (std::int64_t j = 0; j < k; ++j) weights[j] = s[picks[j]] / (sum > 0 ? sum : 1);
}

}  // namespace

void CpuBackend::route(const Tensor& x, const Router& router, bool picked_before,
                       const Tensor& experts, const Tensor& weights) {
  expect_rank("route: x", x, 2);
  M3_CHECK(experts.rank == 2, "route: experts {}", experts.describe());
  const std::int64_t rows = x.dim(0), k = experts.dim(1), count = router.gate.rows;
  expect_matrix("route: gate", router.gate, count, x.dim(1));
  M3_CHECK(router.gate.codec->format == Format::kF32, "route: the gate is {}, expected f32",
           router.gate.codec->name);
  if (router.bias) expect_tensor("route: bias", router.bias, DType::kF32, {count});
  expect_tensor("route: experts", experts, DType::kI32, {rows, k});
  expect_tensor("route: weights", weights, DType::kF32, {rows, k});
  M3_CHECK(k <= count, "route: {} picks of {} experts", k, count);
  if (picked_before) expect_ids("route: experts", experts, count);

  const std::int64_t hidden = x.dim(1);
  float* scores = sums_.take<float>(rows * (count + hidden));
  float* rounded = scores + rows * count;
  for_ranges(pool_, rows * hidden, 8192, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) rounded[i] = round_to_bf16(x.as<float>()[i]);
  });
  const void* const* packed =
      pack_rows(pool_, f32_packing(kernels_), rounded, rows, hidden, packed_f32_);
  plan(router.gate, for_dot(packed, rows), scores);
  multiply(kernels_.dot_f32);
  const float* bias = router.bias ? router.bias.as<float>() : nullptr;
  for_ranges(pool_, rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      float* s = scores + row * count;
      std::int32_t* picks = experts.row<std::int32_t>(row);
      score_experts(kernels_, router.score, count, s);
      if (!picked_before) pick_experts(s, bias, count, k, picks);
      weigh_experts(s, picks, k, weights.row<float>(row));
    }
  });
}

// A counting sort: it keeps the order of the tokens within an expert.
void CpuBackend::dispatch(const Tensor& experts, const Dispatch& out) {
  const std::int64_t count = expect_dispatch("dispatch: out", out);
  const std::int64_t tokens = out.places.dim(0), k = out.places.dim(1);
  expect_tensor("dispatch: experts", experts, DType::kI32, {tokens, k});
  expect_ids("dispatch: experts", experts, count);

  const std::int32_t* expert = experts.as<std::int32_t>();
  std::int32_t* offsets = out.offsets.as<std::int32_t>();
  std::fill_n(offsets, count + 1, 0);
  for (std::int64_t i = 0; i < tokens * k; ++i) ++offsets[expert[i] + 1];
  for (std::int64_t e = 0; e < count; ++e) offsets[e + 1] += offsets[e];

  next_.assign(offsets, offsets + count);
  for (std::int64_t i = 0; i < tokens * k; ++i) {
    const std::int32_t place = next_[static_cast<std::size_t>(expert[i])]++;
    out.places.as<std::int32_t>()[i] = place;
    out.rows.as<std::int32_t>()[place] = static_cast<std::int32_t>(i / k);
  }
}

void CpuBackend::combine(const Tensor& y, const Dispatch& dispatch, const Tensor& weights,
                         float scale, const Tensor& shared, const Tensor& out) {
  expect_dispatch("combine: dispatch", dispatch);
  const std::int64_t tokens = dispatch.places.dim(0), k = dispatch.places.dim(1);
  expect_rank("combine: out", out, 2);
  const std::int64_t hidden = out.dim(1);
  expect_tensor("combine: y", y, DType::kF32, {tokens * k, hidden});
  expect_tensor("combine: weights", weights, DType::kF32, {tokens, k});
  expect_tensor("combine: out", out, DType::kF32, {tokens, hidden});
  if (shared) expect_tensor("combine: shared", shared, DType::kF32, {tokens, hidden});
  expect_ids("combine: places", dispatch.places, y.dim(0));

  tasks_.reserve(TaskScratch::bytes_for<float>(hidden));
  for_each_task(pool_, tokens, [&](std::int64_t t) {
    TaskScratch::Slice slice(tasks_);
    float* sum = slice.take<float>(hidden);
    std::fill_n(sum, hidden, 0.0f);
    for (std::int64_t j = 0; j < k; ++j) {
      const float* part = y.row<float>(dispatch.places.row<std::int32_t>(t)[j]);
      kernels_.add_scaled(part, weights.row<float>(t)[j], hidden, sum);
    }
    kernels_.scale_add(sum, scale, shared ? shared.row<float>(t) : nullptr, hidden,
                       out.row<float>(t));
  });
}

namespace {

// Of a row's weights by its logits (spec: training §2.7). s [experts], scores; d_logits [experts].
void router_gradient(RouterScore score, std::int64_t experts, const float* s,
                     const std::int32_t* picks, std::int64_t k, const float* d_weights,
                     float* d_logits) {
  float sum = 0, along = 0;
  for (std::int64_t j = 0; j < k; ++j) sum += s[picks[j]];
  if (!(sum > 0)) sum = 1;
  for (std::int64_t j = 0; j < k; ++j) along += d_weights[j] * s[picks[j]] / sum;
  std::fill_n(d_logits, experts, 0.0f);
  float mixed = 0;  // of the softmax: what all scores share
  for (std::int64_t j = 0; j < k; ++j) {
    const std::int32_t e = picks[j];
    d_logits[e] = (d_weights[j] - along) / sum;
    mixed += d_logits[e] * s[e];
  }
  for (std::int64_t e = 0; e < experts; ++e)
    d_logits[e] = score == RouterScore::kSoftmax ? s[e] * (d_logits[e] - mixed)
                                                 : d_logits[e] * s[e] * (1 - s[e]);
}

}  // namespace

void CpuGradients::route(const Tensor& x, const Router& router, const Tensor& experts,
                         const Tensor& d_weights, const Tensor& d_x, const Tensor& d_gate) {
  expect_rank("route gradient: x", x, 2);
  const std::int64_t rows = x.dim(0), hidden = x.dim(1), k = experts.dim(1);
  const std::int64_t count = router.gate.rows;
  expect_matrix("route gradient: gate", router.gate, count, hidden);
  M3_CHECK(router.gate.codec->format == Format::kF32, "route gradient: the gate is {}",
           router.gate.codec->name);
  expect_tensor("route gradient: experts", experts, DType::kI32, {rows, k});
  expect_tensor("route gradient: d_weights", d_weights, DType::kF32, {rows, k});
  expect_tensor("route gradient: d_x", d_x, DType::kF32, {rows, hidden});
  expect_ids("route gradient: experts", experts, count);

  const Tensor d_logits(d_logits_.take<float>(rows * count), DType::kF32, {rows, count});
  tasks_.reserve(TaskScratch::bytes_for<float>(hidden) + TaskScratch::bytes_for<float>(count));
  for_each_task(pool_, rows, [&](std::int64_t row) {
    TaskScratch::Slice slice(tasks_);
    float* rounded = slice.take<float>(hidden);  // as the router reads it
    float* s = slice.take<float>(count);
    for (std::int64_t i = 0; i < hidden; ++i) rounded[i] = round_to_bf16(x.row<float>(row)[i]);
    for (std::int64_t e = 0; e < count; ++e)
      s[e] = kernels_.inner_product(rounded, router.gate.values.row<float>(e), hidden);
    score_experts(kernels_, router.score, count, s);
    router_gradient(router.score, count, s, experts.row<std::int32_t>(row), k,
                    d_weights.row<float>(row), d_logits.row<float>(row));
  });
  const Linear gate{router.gate};
  add_linear(x, {&gate, d_logits, d_gate, {}, {}}, d_x);
}

namespace {

// Of Σ_e d_shares[e] * s_e / Σ s by a row's logits; s becomes s / Σ s.
void shares_gradient(RouterScore score, std::int64_t experts, const double* d_shares, float* s,
                     float* d_logits) {
  double sum = 0, along = 0, mixed = 0;
  for (std::int64_t e = 0; e < experts; ++e) sum += s[e];
  if (!(sum > 0)) sum = 1;
  for (std::int64_t e = 0; e < experts; ++e) along += d_shares[e] * s[e] / sum;
  for (std::int64_t e = 0; e < experts; ++e) mixed += (d_shares[e] - along) / sum * s[e];
  for (std::int64_t e = 0; e < experts; ++e) {
    const double d_score = (d_shares[e] - along) / sum;
    d_logits[e] = static_cast<float>(score == RouterScore::kSoftmax ? s[e] * (d_score - mixed)
                                                                    : d_score * s[e] * (1 - s[e]));
    s[e] = static_cast<float>(s[e] / sum);
  }
}

}  // namespace

void CpuGradients::balance(const Tensor& x, const Router& router, const Tensor& experts,
                           float scale, const Tensor& loss, const Tensor& d_x,
                           const Tensor& d_gate) {
  expect_rank("balance: x", x, 2);
  const std::int64_t rows = x.dim(0), hidden = x.dim(1), count = router.gate.rows;
  expect_matrix("balance: gate", router.gate, count, hidden);
  M3_CHECK(router.gate.codec->format == Format::kF32, "balance: the gate is {}",
           router.gate.codec->name);
  expect_tensor("balance: experts", experts, DType::kI32, {rows, experts.dim(1)});
  expect_tensor("balance: loss", loss, DType::kF32, {1});
  expect_tensor("balance: d_x", d_x, DType::kF32, {rows, hidden});
  expect_ids("balance: experts", experts, count);

  const std::vector<double> loads = reference::expert_loads(experts, count);
  std::vector<double> d_shares(loads);
  for (double& d : d_shares) d *= scale / static_cast<double>(rows);
  float* scratch = d_logits_.take<float>(2 * rows * count);
  const Tensor d_logits(scratch, DType::kF32, {rows, count});
  float* shares = scratch + rows * count;
  tasks_.reserve(TaskScratch::bytes_for<float>(hidden));
  for_each_task(pool_, rows, [&](std::int64_t row) {
    TaskScratch::Slice slice(tasks_);
    float* rounded = slice.take<float>(hidden);  // as the router reads it
    float* s = shares + row * count;
    for (std::int64_t i = 0; i < hidden; ++i) rounded[i] = round_to_bf16(x.row<float>(row)[i]);
    for (std::int64_t e = 0; e < count; ++e)
      s[e] = kernels_.inner_product(rounded, router.gate.values.row<float>(e), hidden);
    score_experts(kernels_, router.score, count, s);
    shares_gradient(router.score, count, d_shares.data(), s, d_logits.row<float>(row));
  });
  double sum = 0;
  for (std::int64_t i = 0; i < rows * count; ++i)
    sum += loads[static_cast<std::size_t>(i % count)] * shares[i] / static_cast<double>(rows);
  *loss.as<float>() = static_cast<float>(sum);
  const Linear gate{router.gate};
  add_linear(x, {&gate, d_logits, d_gate, {}, {}}, d_x);
}

void CpuGradients::weigh(const Tensor& f, const Dispatch& dispatch, const Tensor& weights,
                         float scale, const Tensor& d_f, const Tensor& d_weights) {
  expect_dispatch("weigh: dispatch", dispatch);
  expect_rank("weigh: f", f, 2);
  const std::int64_t tokens = dispatch.places.dim(0), k = dispatch.places.dim(1), dim = f.dim(1);
  for (const Tensor& x : {f, d_f}) expect_tensor("weigh: f", x, DType::kF32, {tokens * k, dim});
  for (const Tensor& w : {weights, d_weights})
    expect_tensor("weigh: weights", w, DType::kF32, {tokens, k});
  expect_ids("weigh: places", dispatch.places, tokens * k);
  for_each_task(pool_, tokens * k, [&](std::int64_t i) {
    const std::int64_t r = dispatch.places.as<std::int32_t>()[i];
    float* d = d_f.row<float>(r);
    d_weights.as<float>()[i] = scale * kernels_.inner_product(f.row<float>(r), d, dim);
    kernels_.scale_add(d, scale * weights.as<float>()[i], nullptr, dim, d);
  });
}

void CpuGradients::weighted(const Tensor& f, const Dispatch& dispatch, const Tensor& weights,
                            float scale, const Tensor& out) {
  expect_dispatch("weighted: dispatch", dispatch);
  expect_rank("weighted: f", f, 2);
  const std::int64_t tokens = dispatch.places.dim(0), k = dispatch.places.dim(1), dim = f.dim(1);
  for (const Tensor& x : {f, out}) expect_tensor("weighted: f", x, DType::kF32, {tokens * k, dim});
  expect_tensor("weighted: weights", weights, DType::kF32, {tokens, k});
  expect_ids("weighted: places", dispatch.places, tokens * k);
  for_each_task(pool_, tokens * k, [&](std::int64_t i) {
    const std::int64_t r = dispatch.places.as<std::int32_t>()[i];
    kernels_.scale_add(f.row<float>(r), scale * weights.as<float>()[i], nullptr, dim,
                       out.row<float>(r));
  });
}

void CpuGradients::undispatch(const Tensor& d, const Dispatch& dispatch, const Tensor& d_x) {
  expect_undispatch(d, dispatch, d_x);
  const std::int64_t tokens = d_x.dim(0), dim = d_x.dim(1), k = dispatch.places.dim(1);
  for_each_task(pool_, tokens, [&](std::int64_t t) {
    float* sum = d_x.row<float>(t);
    std::fill_n(sum, dim, 0.0f);
    for (std::int64_t j = 0; j < k; ++j)
      kernels_.add(d.row<float>(dispatch.places.row<std::int32_t>(t)[j]), dim, sum);
  });
}

}  // namespace m3::cpu
