// The mixture of experts (spec: text-model §3.8).
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/reference/dot.h"
#include "backend/reference/expert_loads.h"
#include "backend/reference/product.h"
#include "backend/reference/ranking.h"
#include "backend/reference/reference_backend.h"
#include "backend/reference/reference_gradients.h"
#include "ops/arguments.h"

namespace m3::reference {
namespace {

// Router scores of one row, from its logits, in place. NaN and infinity become 0, so that a broken
// row still gets k different experts.
void score_experts(std::span<float> logits, RouterScore score) {
  double largest = 0, sum = 1;
  if (score == RouterScore::kSoftmax) {
    largest = *std::max_element(logits.begin(), logits.end());
    sum = 0;
    for (float logit : logits) sum += std::exp(logit - largest);
  }
  for (float& logit : logits) {
    const double s = score == RouterScore::kSoftmax ? std::exp(logit - largest) / sum
                                                    : 1 / (1 + std::exp(-double{logit}));
    logit = std::isfinite(s) ? static_cast<float>(s) : 0;
  }
}

std::vector<std::int32_t> pick_experts(std::span<const float> scores, const Tensor& bias,
                                       std::int64_t k) {
  std::vector<float> choice(scores.begin(), scores.end());
  if (bias)
    for (std::size_t e = 0; e < choice.size(); ++e) choice[e] += bias.as<float>()[e];
  return largest(choice, k);
}

// The bias is no part of the weights.
void weigh_experts(std::span<const float> scores, std::span<const std::int32_t> picks,
                   float* weights) {
  double sum = 0;
  for (std::int32_t e : picks) sum += scores[static_cast<std::size_t>(e)];
  for (std::int32_t e : picks)
    *weights++ = static_cast<float>(scores[static_cast<std::size_t>(e)] / (sum > 0 ? sum : 1));
}

}  // namespace

void ReferenceBackend::route(const Tensor& x, const Router& router, bool picked_before,
                             const Tensor& experts, const Tensor& weights) {
  expect_rank("route: x", x, 2);
  M3_CHECK(experts.rank == 2, "route: experts {}", experts.describe());
  const std::int64_t rows = x.dim(0), k = experts.dim(1), count = router.gate.rows;
  expect_matrix("route: gate", router.gate, count, x.dim(1));
  if (router.bias) expect_tensor("route: bias", router.bias, DType::kF32, {count});
  expect_tensor("route: experts", experts, DType::kI32, {rows, k});
  expect_tensor("route: weights", weights, DType::kF32, {rows, k});
  M3_CHECK(k <= count, "route: {} picks of {} experts", k, count);
  if (picked_before) expect_ids("route: experts", experts, count);

  std::vector<float> scores(static_cast<std::size_t>(rows * count));
  product(pool_, {router.gate}, row_pointers(x), scores.data());
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::span<float> s(scores.data() + row * count, static_cast<std::size_t>(count));
    score_experts(s, router.score);
    std::int32_t* picks = experts.row<std::int32_t>(row);
    if (!picked_before) {
      const std::vector<std::int32_t> picked = pick_experts(s, router.bias, k);
      std::copy(picked.begin(), picked.end(), picks);
    }
    weigh_experts(s, {picks, static_cast<std::size_t>(k)}, weights.row<float>(row));
  }
}

// A counting sort: it keeps the order of the tokens within an expert.
void ReferenceBackend::dispatch(const Tensor& experts, const Dispatch& out) {
  const std::int64_t count = expect_dispatch("dispatch: out", out);
  const std::int64_t tokens = out.places.dim(0), k = out.places.dim(1);
  expect_tensor("dispatch: experts", experts, DType::kI32, {tokens, k});
  expect_ids("dispatch: experts", experts, count);

  const std::int32_t* expert = experts.as<std::int32_t>();
  std::int32_t* offsets = out.offsets.as<std::int32_t>();
  std::fill_n(offsets, count + 1, 0);
  for (std::int64_t i = 0; i < tokens * k; ++i) ++offsets[expert[i] + 1];
  for (std::int64_t e = 0; e < count; ++e) offsets[e + 1] += offsets[e];

  std::vector<std::int32_t> next(offsets, offsets + count);
  for (std::int64_t i = 0; i < tokens * k; ++i) {
    const std::int32_t place = next[static_cast<std::size_t>(expert[i])]++;
    out.places.as<std::int32_t>()[i] = place;
    out.rows.as<std::int32_t>()[place] = static_cast<std::int32_t>(i / k);
  }
}

void ReferenceBackend::grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                                      std::span<const GroupedOutput> outputs, const Beside& beside,
                                      const Tensor& adapters) {
  expect_rank("grouped_linear: x", x, 2);
  expect_gates("grouped_linear: up", outputs);
  const std::int64_t count = expect_dispatch("grouped_linear: dispatch", dispatch);
  const std::int64_t dispatched = dispatch.rows.dim(0);
  const std::int32_t* offsets = dispatch.offsets.as<std::int32_t>();
  if (gather) expect_ids("grouped_linear: rows", dispatch.rows, x.dim(0));
  M3_CHECK(gather || x.dim(0) == dispatched, "grouped_linear: x {} for {} dispatched rows",
           x.describe(), dispatched);
  M3_CHECK(offsets[count] <= dispatched, "grouped_linear: offsets end at {} of {} rows",
           offsets[count], dispatched);
  const std::int32_t* of_tokens =
      expect_adapters("grouped_linear: adapters", adapters, dispatch, outputs);

  std::vector<const float*> inputs;
  std::vector<std::int32_t> of_rows;
  for (std::int64_t r = 0; r < dispatched; ++r) {
    const std::int32_t token = dispatch.rows.as<std::int32_t>()[r];
    inputs.push_back(x.row<float>(gather ? token : r));
    if (of_tokens != nullptr) of_rows.push_back(of_tokens[token]);
  }
  for (const GroupedOutput& output : outputs) {
    M3_CHECK(std::ssize(output.experts) == count, "grouped_linear: {} experts, offsets for {}",
             output.experts.size(), count);
    for (std::int64_t e = 0; e < count; ++e) {
      const Linear& expert = output.experts[static_cast<std::size_t>(e)];
      expect_linear("grouped_linear: weight", expert, x.dim(1));
      expect_tensor("grouped_linear: out", output.out, DType::kF32,
                    {dispatched, expert.weight.rows});
      const std::span mine(inputs.data() + offsets[e], inputs.data() + offsets[e + 1]);
      product(pool_, expert, mine, output.out.row<float>(offsets[e]),
              of_tokens != nullptr ? of_rows.data() + offsets[e] : nullptr);
    }
  }
  apply_gates(outputs);
  if (!beside.outputs.empty()) linear(beside.x, beside.outputs, adapters);
}

void ReferenceBackend::combine(const Tensor& y, const Dispatch& dispatch, const Tensor& weights,
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

  pool_.parallel_for(tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> sums(static_cast<std::size_t>(hidden));
    for (std::int64_t t = begin; t < end; ++t) {
      std::fill(sums.begin(), sums.end(), 0.0);
      for (std::int64_t j = 0; j < k; ++j) {
        const double weight = weights.row<float>(t)[j];
        const float* part = y.row<float>(dispatch.places.row<std::int32_t>(t)[j]);
        for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += weight * part[i];
      }
      for (std::size_t i = 0; i < sums.size(); ++i)
        out.row<float>(t)[i] =
            static_cast<float>(scale * sums[i] + (shared ? shared.row<float>(t)[i] : 0.0));
    }
  });
}

namespace {

// Derivatives by a row's logits, of those by its scores.
void logits_gradient(std::span<const float> scores, RouterScore score,
                     std::span<const double> d_scores, float* d_logits) {
  double mixed = 0;  // of the softmax: what all scores share
  for (std::size_t e = 0; e < scores.size(); ++e) mixed += d_scores[e] * scores[e];
  for (std::size_t e = 0; e < scores.size(); ++e) {
    const double s = scores[e];
    d_logits[e] = static_cast<float>(score == RouterScore::kSoftmax ? s * (d_scores[e] - mixed)
                                                                    : d_scores[e] * s * (1 - s));
  }
}

// From the derivatives by the logits of each row on to d_x, which is added to, and d_gate.
void gate_gradient(ThreadPool& pool, const Router& router, std::span<const float* const> d_logits,
                   std::span<const float* const> inputs, const Tensor& d_x, const Tensor& d_gate) {
  const Linear gate{router.gate};
  const BackwardLayer layer{&gate, d_logits};
  std::vector<float> d_inputs(static_cast<std::size_t>(d_x.elements()));
  input_gradient(pool, {&layer, 1}, d_x.dim(1), d_inputs.data());
  for (std::size_t i = 0; i < d_inputs.size(); ++i) d_x.as<float>()[i] += d_inputs[i];
  if (!d_gate) return;
  expect_tensor("router gradient: d_gate", d_gate, DType::kF32, {router.gate.rows, d_x.dim(1)});
  weight_gradient(pool, d_logits, inputs, d_gate);
}

// Of a row's weights by its logits. scores [experts] as score_experts() leaves them; d_logits
// [experts].
void router_gradient(std::span<const float> scores, RouterScore score,
                     std::span<const std::int32_t> picks, const float* d_weights, float* d_logits) {
  double sum = 0, along = 0;
  for (std::int32_t e : picks) sum += scores[static_cast<std::size_t>(e)];
  if (!(sum > 0)) sum = 1;
  for (std::size_t j = 0; j < picks.size(); ++j)
    along += d_weights[j] * scores[static_cast<std::size_t>(picks[j])] / sum;
  std::vector<double> d_scores(scores.size(), 0.0);
  for (std::size_t j = 0; j < picks.size(); ++j)
    d_scores[static_cast<std::size_t>(picks[j])] = (d_weights[j] - along) / sum;
  logits_gradient(scores, score, d_scores, d_logits);
}

}  // namespace

void ReferenceGradients::route(const Tensor& x, const Router& router, const Tensor& experts,
                               const Tensor& d_weights, const Tensor& d_x, const Tensor& d_gate) {
  expect_rank("route gradient: x", x, 2);
  const std::int64_t rows = x.dim(0), cols = x.dim(1), k = experts.dim(1), count = router.gate.rows;
  expect_matrix("route gradient: gate", router.gate, count, cols);
  expect_tensor("route gradient: experts", experts, DType::kI32, {rows, k});
  expect_tensor("route gradient: d_weights", d_weights, DType::kF32, {rows, k});
  expect_tensor("route gradient: d_x", d_x, DType::kF32, {rows, cols});
  expect_ids("route gradient: experts", experts, count);

  std::vector<float> scores(static_cast<std::size_t>(rows * count)), d_logits(scores.size());
  const std::vector<const float*> inputs = row_pointers(x);
  product(pool_, {router.gate}, inputs, scores.data());
  std::vector<const float*> d_rows;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::span<float> s(scores.data() + row * count, static_cast<std::size_t>(count));
    score_experts(s, router.score);
    router_gradient(s, router.score, {experts.row<std::int32_t>(row), static_cast<std::size_t>(k)},
                    d_weights.row<float>(row), d_logits.data() + row * count);
    d_rows.push_back(d_logits.data() + row * count);
  }
  gate_gradient(pool_, router, d_rows, inputs, d_x, d_gate);
}

namespace {

// Of Σ_e d_shares[e] * s_e / Σ s by a row's logits; adds s_e / Σ s to `shares`.
void shares_gradient(std::span<const float> scores, RouterScore score,
                     std::span<const double> d_shares, std::span<double> shares, float* d_logits) {
  double sum = 0, along = 0;
  for (const float s : scores) sum += s;
  if (!(sum > 0)) sum = 1;
  for (std::size_t e = 0; e < scores.size(); ++e) {
    shares[e] += scores[e] / sum;
    along += d_shares[e] * scores[e] / sum;
  }
  std::vector<double> d_scores(scores.size());
  for (std::size_t e = 0; e < scores.size(); ++e) d_scores[e] = (d_shares[e] - along) / sum;
  logits_gradient(scores, score, d_scores, d_logits);
}

}  // namespace

void ReferenceGradients::balance(const Tensor& x, const Router& router, const Tensor& experts,
                                 float scale, const Tensor& loss, const Tensor& d_x,
                                 const Tensor& d_gate) {
  expect_rank("balance: x", x, 2);
  const std::int64_t rows = x.dim(0), cols = x.dim(1), k = experts.dim(1), count = router.gate.rows;
  expect_matrix("balance: gate", router.gate, count, cols);
  expect_tensor("balance: experts", experts, DType::kI32, {rows, k});
  expect_tensor("balance: loss", loss, DType::kF32, {1});
  expect_tensor("balance: d_x", d_x, DType::kF32, {rows, cols});
  expect_ids("balance: experts", experts, count);

  std::vector<float> scores(static_cast<std::size_t>(rows * count)), d_logits(scores.size());
  const std::vector<const float*> inputs = row_pointers(x);
  product(pool_, {router.gate}, inputs, scores.data());
  const std::vector<double> loads = expert_loads(experts, count);
  std::vector<double> d_shares(loads), shares(loads.size(), 0.0);
  for (double& d : d_shares) d *= scale / static_cast<double>(rows);
  std::vector<const float*> d_rows;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::span<float> s(scores.data() + row * count, static_cast<std::size_t>(count));
    score_experts(s, router.score);
    shares_gradient(s, router.score, d_shares, shares, d_logits.data() + row * count);
    d_rows.push_back(d_logits.data() + row * count);
  }
  double sum = 0;
  for (std::size_t e = 0; e < loads.size(); ++e)
    sum += loads[e] * shares[e] / static_cast<double>(rows);
  *loss.as<float>() = static_cast<float>(sum);
  gate_gradient(pool_, router, d_rows, inputs, d_x, d_gate);
}

void ReferenceGradients::weigh(const Tensor& f, const Dispatch& dispatch, const Tensor& weights,
                               float scale, const Tensor& d_f, const Tensor& d_weights) {
  expect_dispatch("weigh: dispatch", dispatch);
  expect_rank("weigh: f", f, 2);
  const std::int64_t tokens = dispatch.places.dim(0), k = dispatch.places.dim(1), dim = f.dim(1);
  expect_tensor("weigh: f", f, DType::kF32, {tokens * k, dim});
  expect_tensor("weigh: d_f", d_f, DType::kF32, {tokens * k, dim});
  expect_tensor("weigh: weights", weights, DType::kF32, {tokens, k});
  expect_tensor("weigh: d_weights", d_weights, DType::kF32, {tokens, k});
  expect_ids("weigh: places", dispatch.places, tokens * k);
  pool_.parallel_for(tokens * k, 1, [&](std::int64_t i, std::int64_t) {
    const std::int64_t r = dispatch.places.as<std::int32_t>()[i];
    const double factor = double{scale} * weights.as<float>()[i];
    d_weights.as<float>()[i] =
        static_cast<float>(scale * dot(f.row<float>(r), d_f.row<float>(r), dim));
    for (std::int64_t c = 0; c < dim; ++c)
      d_f.row<float>(r)[c] = static_cast<float>(factor * d_f.row<float>(r)[c]);
  });
}

void ReferenceGradients::weighted(const Tensor& f, const Dispatch& dispatch, const Tensor& weights,
                                  float scale, const Tensor& out) {
  expect_dispatch("weighted: dispatch", dispatch);
  expect_rank("weighted: f", f, 2);
  const std::int64_t tokens = dispatch.places.dim(0), k = dispatch.places.dim(1), dim = f.dim(1);
  expect_tensor("weighted: f", f, DType::kF32, {tokens * k, dim});
  expect_tensor("weighted: out", out, DType::kF32, {tokens * k, dim});
  expect_tensor("weighted: weights", weights, DType::kF32, {tokens, k});
  expect_ids("weighted: places", dispatch.places, tokens * k);
  pool_.parallel_for(tokens * k, 1, [&](std::int64_t i, std::int64_t) {
    const std::int64_t r = dispatch.places.as<std::int32_t>()[i];
    const double factor = double{scale} * weights.as<float>()[i];
    for (std::int64_t c = 0; c < dim; ++c)
      out.row<float>(r)[c] = static_cast<float>(factor * f.row<float>(r)[c]);
  });
}

void ReferenceGradients::grouped_linear(const Tensor& x, const Dispatch& dispatch, bool gather,
                                        std::span<const GroupedGradient> layers,
                                        const Tensor& d_x) {
  expect_rank("grouped_linear gradient: x", x, 2);
  const std::int64_t count = expect_dispatch("grouped_linear gradient: dispatch", dispatch);
  const std::int64_t dispatched = dispatch.rows.dim(0), cols = x.dim(1);
  const std::int32_t* offsets = dispatch.offsets.as<std::int32_t>();
  if (gather) expect_ids("grouped_linear gradient: rows", dispatch.rows, x.dim(0));
  M3_CHECK(gather || x.dim(0) == dispatched, "grouped_linear gradient: x {} for {} rows",
           x.describe(), dispatched);
  expect_tensor("grouped_linear gradient: d_x", d_x, DType::kF32, {dispatched, cols});
  std::vector<const float*> inputs;
  for (std::int64_t r = 0; r < dispatched; ++r)
    inputs.push_back(x.row<float>(gather ? dispatch.rows.as<std::int32_t>()[r] : r));
  std::vector<std::vector<const float*>> d_outs;
  for (const GroupedGradient& layer : layers) {
    M3_CHECK(std::ssize(layer.experts) == count, "grouped_linear gradient: {} experts, not {}",
             layer.experts.size(), count);
    d_outs.push_back(row_pointers(layer.d_out));
    M3_CHECK(std::ssize(d_outs.back()) == dispatched, "grouped_linear gradient: d_out {}",
             layer.d_out.describe());
  }
  for (std::size_t e = 0; e < static_cast<std::size_t>(count); ++e) {
    const auto first = static_cast<std::size_t>(offsets[e]);
    const auto rows = static_cast<std::size_t>(offsets[e + 1]) - first;
    std::vector<BackwardLayer> through;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::span<const float* const> d_out(d_outs[i].data() + first, rows);
      expect_linear("grouped_linear gradient: weight", layers[i].experts[e], cols);
      through.push_back({&layers[i].experts[e], d_out});
      const std::span<const float* const> x_e(inputs.data() + first, rows);
      if (!layers[i].d_weights.empty() && layers[i].d_weights[e])
        weight_gradient(pool_, d_out, x_e, layers[i].d_weights[e]);
      if (!layers[i].d_a.empty() && layers[i].d_a[e])
        low_rank_gradient(pool_, *layers[i].experts[e].addend, d_out, x_e, layers[i].d_a[e],
                          layers[i].d_b[e]);
    }
    input_gradient(pool_, through, cols, d_x.as<float>() + offsets[e] * cols);
  }
}

void ReferenceGradients::undispatch(const Tensor& d, const Dispatch& dispatch, const Tensor& d_x) {
  expect_undispatch(d, dispatch, d_x);
  const std::int64_t tokens = d_x.dim(0), dim = d_x.dim(1), k = dispatch.places.dim(1);
  pool_.parallel_for(tokens, 1, [&](std::int64_t t, std::int64_t) {
    for (std::int64_t c = 0; c < dim; ++c) {
      double sum = 0;
      for (std::int64_t j = 0; j < k; ++j)
        sum += d.row<float>(dispatch.places.row<std::int32_t>(t)[j])[c];
      d_x.row<float>(t)[c] = static_cast<float>(sum);
    }
  });
}

}  // namespace m3::reference
