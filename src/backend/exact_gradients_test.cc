// Derivatives of the reference against forwards that are written a second time, in double, so that
// differences are exact enough for 1e-5 (spec: training §14, row 4).
#include <functional>

#include "backend/op_testing.h"
#include "backend/op_testing_cache.h"
#include "ops/gradients.h"
#include "tensor/float_matrix.h"

namespace m3 {
namespace {

using Doubles = std::vector<double>;

Doubles doubles(const Tensor& x) {
  return {x.as<float>(), x.as<float>() + x.elements()};
}

class ExactGradients : public OpTest {
 protected:
  static constexpr double kStep = 1e-4;

  // gradient[i] is the slope of loss() along x[i], within `relative` of it, or of a hundredth of
  // the steepest.
  static void expect_slopes(Doubles& x, const Tensor& gradient, const std::function<double()>& loss,
                            const std::string& what, double relative = 1e-5) {
    ASSERT_EQ(gradient.elements(), std::ssize(x)) << what;
    Doubles slopes;
    double steepest = 0;
    for (double& value : x) {
      const double before = value;
      value = before + kStep;
      const double above = loss();
      value = before - kStep;
      slopes.push_back((above - loss()) / (2 * kStep));
      value = before;
      steepest = std::max(steepest, std::abs(slopes.back()));
    }
    EXPECT_GT(steepest, 0) << what;
    for (std::size_t i = 0; i < slopes.size(); ++i)
      EXPECT_NEAR(gradient.as<float>()[i], slopes[i],
                  relative * std::max(std::abs(slopes[i]), 1e-2 * steepest))
          << what << ", element " << i;
  }

  Tensor zeros(std::initializer_list<std::int64_t> shape) {
    const Tensor x = arena_.floats(shape);
    std::fill_n(x.as<float>(), x.elements(), 0.0f);
    return x;
  }
  GradientOps& ops() { return *reference_->gradients(); }
};

double inverse_length(const double* x, std::size_t dim, double eps) {
  double squares = 0;
  for (std::size_t i = 0; i < dim; ++i) squares += x[i] * x[i];
  return 1 / std::sqrt(squares / static_cast<double>(dim) + eps);
}

TEST_P(ExactGradients, RmsNorm) {
  const std::size_t rows = 3, dim = 10;
  const Tensor x = arena_.random({rows, dim}), w = arena_.random({dim});
  const Tensor c = arena_.random({rows, dim}), d_x = zeros({rows, dim}), d_w = zeros({dim});
  const float eps = 1e-3f;
  Doubles xs = doubles(x), ws = doubles(w);
  const Doubles cs = doubles(c);
  const auto loss = [&] {
    double sum = 0;
    for (std::size_t at = 0; at < xs.size(); ++at) {
      const double inverse = inverse_length(&xs[at / dim * dim], dim, eps);
      sum += cs[at] * xs[at] * inverse * (1 + ws[at % dim]);
    }
    return sum;
  };
  ops().rms_norm(x, w, eps, c, d_x, d_w);
  expect_slopes(xs, d_x, loss, "x");
  expect_slopes(ws, d_w, loss, "weight");
}

TEST_P(ExactGradients, NormAndRotation) {
  const std::size_t rows = 3, heads = 2, dim = 8, pairs = 3;
  const Tensor x = arena_.random({rows, heads * dim}), w = arena_.random({dim});
  const Tensor c = arena_.random({rows, heads * dim});
  const HeadNorm norm{w, 1e-3f, arena_.random({rows, 2 * pairs})};
  const Tensor d_x = arena_.floats({rows, heads * dim}), d_w = zeros({dim});
  Doubles xs = doubles(x), ws = doubles(w);
  const Doubles cs = doubles(c), turns = doubles(norm.rotations);
  const auto loss = [&] {
    double sum = 0;
    for (std::size_t head = 0; head < rows * heads; ++head) {
      Doubles y(&xs[head * dim], &xs[head * dim] + dim);
      const double inverse = inverse_length(y.data(), dim, norm.eps);
      for (std::size_t i = 0; i < dim; ++i) y[i] *= inverse * (1 + ws[i]);
      for (std::size_t i = 0; i < pairs; ++i) {
        const double cosine = turns[head / heads * 2 * pairs + i];
        const double sine = turns[head / heads * 2 * pairs + pairs + i];
        const double first = y[i], second = y[i + pairs];
        y[i] = first * cosine - second * sine;
        y[i + pairs] = second * cosine + first * sine;
      }
      for (std::size_t i = 0; i < dim; ++i) sum += cs[head * dim + i] * y[i];
    }
    return sum;
  };
  ops().norm_rope(x, norm, c, d_x, d_w);
  expect_slopes(xs, d_x, loss, "x");
  expect_slopes(ws, d_w, loss, "weight");
}

TEST_P(ExactGradients, LayerNorm) {
  const std::size_t rows = 3, dim = 10;
  const Tensor x = arena_.random({rows, dim}), c = arena_.random({rows, dim});
  const LayerNorm norm{arena_.random({dim}), arena_.random({dim}), 1e-3f};
  const Tensor d_x = zeros({rows, dim}), d_w = zeros({dim}), d_b = zeros({dim});
  Doubles xs = doubles(x), ws = doubles(norm.weight), bs = doubles(norm.bias);
  const Doubles cs = doubles(c);
  const auto loss = [&] {
    double sum = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      Doubles y(&xs[row * dim], &xs[row * dim] + dim);
      const double mean = std::accumulate(y.begin(), y.end(), 0.0) / static_cast<double>(dim);
      for (double& value : y) value -= mean;
      const double inverse = inverse_length(y.data(), dim, norm.eps);
      for (std::size_t i = 0; i < dim; ++i)
        sum += cs[row * dim + i] * (y[i] * inverse * ws[i] + bs[i]);
    }
    return sum;
  };
  ops().layer_norm(x, norm, c, d_x, d_w, d_b);
  expect_slopes(xs, d_x, loss, "x");
  expect_slopes(ws, d_w, loss, "weight");
  expect_slopes(bs, d_b, loss, "bias");
}

TEST_P(ExactGradients, Gelu) {
  const std::size_t dim = 9;
  const Tensor x = arena_.random({2, dim}, 3), bias = arena_.random({dim});
  const Tensor c = arena_.random({2, dim}), d_x = arena_.floats({2, dim});
  Doubles xs = doubles(x);
  const Doubles bs = doubles(bias), cs = doubles(c);
  const auto loss = [&] {
    double sum = 0;
    for (std::size_t at = 0; at < xs.size(); ++at) {
      const double y = xs[at] + bs[at % dim];
      sum += cs[at] * y / 2 * (1 + std::erf(y / std::sqrt(2.0)));
    }
    return sum;
  };
  ops().gelu(x, bias, c, d_x);
  expect_slopes(xs, d_x, loss, "x");
}

TEST_P(ExactGradients, SwiGlu) {
  const SwiGlu params;
  const Tensor gate = arena_.random({2, 9}, 3), up = arena_.random({2, 9}, 3);
  gate.as<float>()[0] = 9;
  up.as<float>()[1] = -9;
  up.as<float>()[2] = 9;
  const Tensor c = arena_.random({2, 9});
  const Tensor d_gate = arena_.floats({2, 9}), d_up = arena_.floats({2, 9});
  Doubles gates = doubles(gate), ups = doubles(up);
  const Doubles cs = doubles(c);
  const auto loss = [&] {
    double sum = 0;
    for (std::size_t i = 0; i < gates.size(); ++i) {
      const double g = std::min(gates[i], 7.0), u = std::clamp(ups[i], -7.0, 7.0);
      sum += cs[i] * g / (1 + std::exp(-double{params.alpha} * g)) * (u + 1);
    }
    return sum;
  };
  ops().swiglu(gate, up, params, c, d_gate, d_up);
  expect_slopes(gates, d_gate, loss, "gate");
  expect_slopes(ups, d_up, loss, "up");
}

TEST_P(ExactGradients, Router) {
  const std::size_t rows = 3, hidden = 6, count = 4, k = 2;
  for (const RouterScore score : {RouterScore::kSigmoid, RouterScore::kSoftmax}) {
    const Tensor x = arena_.random({rows, hidden}), gate = arena_.random({count, hidden});
    const Router router{f32_matrix(gate), arena_.random({count}), score};
    const std::vector<std::int32_t> picks = {0, 2, 1, 3, 0, 1};
    const Tensor c = arena_.random({rows, k});
    const Tensor d_x = zeros({rows, hidden}), d_gate = zeros({count, hidden});
    Doubles xs = doubles(x), gates = doubles(gate);
    const Doubles cs = doubles(c);
    const auto loss = [&] {
      double sum = 0;
      for (std::size_t row = 0; row < rows; ++row) {
        double scores[k], all = 0;
        for (std::size_t j = 0; j < k; ++j) {
          const auto expert = static_cast<std::size_t>(picks[row * k + j]);
          const double logit = std::inner_product(&xs[row * hidden], &xs[row * hidden] + hidden,
                                                  &gates[expert * hidden], 0.0);
          // What all scores of a softmax are divided by goes out of the weights again.
          scores[j] = score == RouterScore::kSoftmax ? std::exp(logit) : 1 / (1 + std::exp(-logit));
          all += scores[j];
        }
        for (std::size_t j = 0; j < k; ++j) sum += cs[row * k + j] * scores[j] / all;
      }
      return sum;
    };
    ops().route(x, router, arena_.of({rows, k}, picks), c, d_x, d_gate);
    expect_slopes(xs, d_x, loss, "x");
    expect_slopes(gates, d_gate, loss, "gate");
  }
}

TEST_P(ExactGradients, CrossEntropy) {
  const std::size_t rows = 3, vocab = 7;
  const Tensor z = arena_.random({rows, vocab}, 2), losses = arena_.floats({rows});
  const std::vector<std::int32_t> labels = {4, kNotScored, 0};
  Doubles zs = doubles(z);
  const auto loss = [&] {
    double sum = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      if (labels[row] == kNotScored) continue;
      double all = 0;
      for (std::size_t i = 0; i < vocab; ++i) all += std::exp(zs[row * vocab + i]);
      sum += std::log(all) - zs[row * vocab + static_cast<std::size_t>(labels[row])];
    }
    return 0.5 * sum;
  };
  ops().cross_entropy(z, arena_.of({rows}, labels), 0.5f, losses);
  expect_slopes(zs, z, loss, "logits");
}

// Two sequences of several blocks, listed or all.
TEST_P(ExactGradients, Attention) {
  const std::size_t tokens = 4, heads = 4, kv_heads = 2, dim = 4, count = 12, topk = 2;
  const float scale = 0.7f;
  TestCache cache({.dtype = DType::kF32,
                   .page_tokens = tokens,
                   .kv_heads = kv_heads,
                   .head_dim = dim,
                   .order = PageOrder::kRows},
                  {9, 3});
  std::vector<std::pair<std::int32_t, std::int64_t>> places;
  for (std::int64_t slot = 0; slot < 9; ++slot) places.emplace_back(0, slot);
  for (std::int64_t slot = 0; slot < 3; ++slot) places.emplace_back(1, slot);
  const Rows rows = cache.rows(arena_, places);
  const Tensor q = arena_.random({count, heads * dim}), c = arena_.random({count, heads * dim});
  Doubles qs = doubles(q), ks, vs;
  const Doubles cs = doubles(c);
  for (const auto& [sequence, slot] : places)
    for (std::int64_t i = 0; i < std::int64_t{kv_heads * dim}; ++i) {
      ks.push_back(cache.key(sequence, slot, i / std::int64_t{dim}, i % std::int64_t{dim}));
      vs.push_back(cache.value(sequence, slot, i / std::int64_t{dim}, i % std::int64_t{dim}));
    }
  // The first head sees the first block and its own, the second its own alone.
  const Tensor blocks = arena_.make(DType::kI32, {count, kv_heads, topk});
  for (std::size_t row = 0; row < count; ++row) {
    const auto own = static_cast<std::int32_t>(places[row].second / std::int64_t{tokens});
    std::int32_t* list = blocks.row<std::int32_t>(static_cast<std::int64_t>(row));
    list[0] = 0, list[1] = own > 0 ? own : -1;
    list[2] = own, list[3] = -1;
  }
  for (const bool listed : {false, true}) {
    const auto loss = [&] {
      double sum = 0;
      for (std::size_t row = 0; row < count; ++row)
        for (std::size_t h = 0; h < heads; ++h) {
          const std::size_t kv = h / (heads / kv_heads);
          const std::size_t first = row < 9 ? 0 : 9, own = (row - first) / tokens;
          double all = 0, along = 0;
          for (std::size_t t = first; t <= row; ++t) {
            const std::size_t block = (t - first) / tokens;
            if (listed && block != own && !(kv == 0 && block == 0)) continue;
            const std::size_t at = (t * kv_heads + kv) * dim, from = (row * heads + h) * dim;
            const double score = std::inner_product(&qs[from], &qs[from] + dim, &ks[at], 0.0);
            const double weight = std::exp(double{scale} * score);
            all += weight;
            along += weight * std::inner_product(&cs[from], &cs[from] + dim, &vs[at], 0.0);
          }
          sum += along / all;
        }
      return sum;
    };
    const Tensor* list = listed ? &blocks : nullptr;
    const Tensor log_sums = arena_.floats({count, heads});
    const Tensor out = run_attention(*reference_, q, rows, cache.kv, scale, list, log_sums);
    const Tensor d_q = arena_.floats({count, heads * dim});
    const Tensor d_k = arena_.floats({count, kv_heads * dim});
    const Tensor d_v = arena_.floats({count, kv_heads * dim});
    ops().attention(q, rows, cache.kv, scale, list, out, log_sums, c, d_q, d_k, d_v);
    const std::string what = listed ? "listed, " : "all, ";
    expect_slopes(qs, d_q, loss, what + "q");
    expect_slopes(ks, d_k, loss, what + "k");
    expect_slopes(vs, d_v, loss, what + "v");
  }
}

INSTANTIATE_TEST_SUITE_P(Reference, ExactGradients, testing::Values(Machine{"reference", ""}),
                         machine_name);

}  // namespace
}  // namespace m3
