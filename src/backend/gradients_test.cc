// Derivatives against differences: of c · f(x) by x, for random c, five points along each element.
#include <functional>
#include <limits>
#include <optional>

#include "backend/op_testing.h"
#include "backend/op_testing_cache.h"
#include "ops/dropout.h"
#include "ops/gradients.h"
#include "tensor/float_matrix.h"

namespace m3 {
namespace {

class GradientTest : public OpTest {
 protected:
  // c · out.
  static double weighted_sum(const Tensor& c, const Tensor& out) {
    double sum = 0;
    for (std::int64_t i = 0; i < out.elements(); ++i)
      sum += double{c.as<float>()[i]} * out.as<float>()[i];
    return sum;
  }

  // gradient[i] is the derivative of loss() by x[i], as differences tell it, for some of the i.
  void expect_derivative(const Tensor& x, const Tensor& gradient,
                         const std::function<double()>& loss, const std::string& what,
                         float step = 0.02f, std::int64_t every = 1) {
    // Products of numbers in bfloat16, some of them after each other.
    const double tolerance = (is_reference() ? 2e-4 : 6 * kBf16) * std::max(1.0, largest(gradient));
    for (std::int64_t i = 0; i < x.elements(); i += every) {
      float& value = x.as<float>()[i];
      const float before = value;
      const auto at = [&](float steps) {
        value = before + steps * step;
        return loss();
      };
      const double slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * double{step});
      value = before;
      ASSERT_NEAR(gradient.as<float>()[i], slope, tolerance) << what << ", element " << i;
    }
  }

  Tensor zeros(std::initializer_list<std::int64_t> shape) {
    const Tensor x = arena_.floats(shape);
    std::fill_n(x.as<float>(), x.elements(), 0.0f);
    return x;
  }

  // Exact forward; the derivatives under test.
  GradientOps& ops() { return *backend_->gradients(); }
  Backend& forward() { return *reference_; }
};

TEST_P(GradientTest, RmsNorm) {
  const Tensor x = arena_.random({3, 10}), w = arena_.random({10}), c = arena_.random({3, 10});
  const Tensor out = arena_.floats({3, 10}), d_x = zeros({3, 10}), d_w = zeros({10});
  const auto loss = [&] {
    forward().rms_norm(x, w, 1e-3f, out);
    return weighted_sum(c, out);
  };
  ops().rms_norm(x, w, 1e-3f, c, d_x, d_w);
  expect_derivative(x, d_x, loss, "x");
  expect_derivative(w, d_w, loss, "weight");
  ops().rms_norm(x, w, 1e-3f, c, d_x, {});  // adds, and a weight may be frozen
  for (std::int64_t i = 0; i < d_x.elements(); ++i) d_x.as<float>()[i] /= 2;
  expect_derivative(x, d_x, loss, "x, twice");
}

TEST_P(GradientTest, NormAndRotation) {
  const Tensor x = arena_.random({3, 16}), w = arena_.random({8}), c = arena_.random({3, 16});
  const HeadNorm norm{w, 1e-3f, arena_.random({3, 6})};
  const Tensor out = arena_.floats({3, 16}), d_x = arena_.floats({3, 16}), d_w = zeros({8});
  const auto loss = [&] {
    forward().norm_rope(x, norm, out);
    return weighted_sum(c, out);
  };
  ops().norm_rope(x, norm, c, d_x, d_w);
  expect_derivative(x, d_x, loss, "x");
  expect_derivative(w, d_w, loss, "weight");
}

TEST_P(GradientTest, LayerNorm) {
  const Tensor x = arena_.random({3, 10}), c = arena_.random({3, 10});
  const LayerNorm norm{arena_.random({10}), arena_.random({10}), 1e-3f};
  const Tensor out = arena_.floats({3, 10}), d_x = zeros({3, 10});
  const Tensor d_w = zeros({10}), d_b = zeros({10});
  const auto loss = [&] {
    forward().layer_norm(x, norm, out);
    return weighted_sum(c, out);
  };
  ops().layer_norm(x, norm, c, d_x, d_w, d_b);
  expect_derivative(x, d_x, loss, "x");
  expect_derivative(norm.weight, d_w, loss, "weight");
  expect_derivative(norm.bias, d_b, loss, "bias");
}

TEST_P(GradientTest, Gelu) {
  const Tensor x = arena_.random({2, 9}, 3), bias = arena_.random({9}), c = arena_.random({2, 9});
  const Tensor out = arena_.floats({2, 9}), d_x = arena_.floats({2, 9}), d_bias = zeros({9});
  const auto loss = [&] {
    forward().gelu(x, bias, out);
    return weighted_sum(c, out);
  };
  ops().gelu(x, bias, c, d_x);
  ops().add_row(d_x, d_bias);
  expect_derivative(x, d_x, loss, "x");
  expect_derivative(bias, d_bias, loss, "bias");
}

TEST_P(GradientTest, Rotation) {
  const Tensor x = arena_.random({3, 16}), c = arena_.random({3, 16});
  const Tensor rotations = arena_.random({3, 6}), d = arena_.copy(c);
  ops().rotate(rotations, /*dim=*/8, d);
  expect_derivative(
      x, d,
      [&] {
        const Tensor turned = arena_.copy(x);
        forward().rotate(rotations, 8, turned);
        return weighted_sum(c, turned);
      },
      "x");
}

TEST_P(GradientTest, SegmentAttention) {
  const std::int64_t rows = 7, dim = 4, width = 8;
  const Tensor segments = arena_.of<std::int32_t>({4}, {0, 4, 4, 7});  // one is empty
  const Tensor q = arena_.random({rows, width}), k = arena_.random({rows, width});
  const Tensor v = arena_.random({rows, width}), c = arena_.random({rows, width});
  const Tensor out = arena_.floats({rows, width});
  const auto loss = [&] {
    forward().segment_attention(q, k, v, segments, dim, 0.7f, out);
    return weighted_sum(c, out);
  };
  loss();
  const Tensor d_q = arena_.floats({rows, width}), d_k = arena_.floats({rows, width});
  const Tensor d_v = arena_.floats({rows, width});
  ops().segment_attention(q, k, v, segments, dim, 0.7f, out, c, d_q, d_k, d_v);
  expect_derivative(q, d_q, loss, "q");
  expect_derivative(k, d_k, loss, "k");
  expect_derivative(v, d_v, loss, "v");
}

// At exactly the limit a derivative passes; beyond it none does (spec: training §2.7).
TEST_P(GradientTest, SwiGlu) {
  const SwiGlu params;
  const Tensor gate = arena_.random({2, 9}, 3), up = arena_.random({2, 9}, 3);
  gate.as<float>()[0] = 9;
  up.as<float>()[1] = -9;
  up.as<float>()[2] = 9;
  const Tensor c = arena_.random({2, 9}), out = arena_.floats({2, 9});
  const Tensor d_gate = arena_.floats({2, 9}), d_up = arena_.floats({2, 9});
  const auto loss = [&] {
    forward().swiglu(gate, up, params, out);
    return weighted_sum(c, out);
  };
  ops().swiglu(gate, up, params, c, d_gate, d_up);
  expect_derivative(gate, d_gate, loss, "gate");
  expect_derivative(up, d_up, loss, "up");
  EXPECT_EQ(d_gate.as<float>()[0], 0);
  EXPECT_EQ(d_up.as<float>()[1], 0);

  const Tensor at_limit = arena_.of<float>({1, 2}, {7, 7}), ups = arena_.of<float>({1, 2}, {7, -7});
  const Tensor ones = arena_.of<float>({1, 2}, {1, 1});
  const Tensor d_g = arena_.floats({1, 2}), d_u = arena_.floats({1, 2});
  ops().swiglu(at_limit, ups, params, ones, d_g, d_u);
  const double alpha = params.alpha, z = 1 / (1 + std::exp(-alpha * 7));
  for (std::int64_t i = 0; i < 2; ++i) {
    const double slope = (ups.as<float>()[i] + 1.0) * z * (1 + alpha * 7 * (1 - z));
    EXPECT_NEAR(d_g.as<float>()[i], slope, 1e-5 * std::abs(slope));
    EXPECT_NEAR(d_u.as<float>()[i], 7 * z, 1e-5 * 7);
  }
}

TEST_P(GradientTest, Linear) {
  for (const bool tuned : {false, true}) {
    const Tensor x = arena_.random({4, 6}), w1 = arena_.random({5, 6}), w2 = arena_.random({3, 6});
    const LowRank addend{arena_.random({2, 6}), arena_.random({5, 2}), 0.5f};
    const Codec& f32 = codec_of(Format::kF32);
    Linear first{{&f32, w1, {}}, tuned ? &addend : nullptr}, second{{&f32, w2, {}}};
    first.weight.rows = 5, first.weight.cols = 6;
    second.weight.rows = 3, second.weight.cols = 6;
    const Tensor c1 = arena_.random({4, 5}), c2 = arena_.random({4, 3});
    const auto loss = [&] {
      return weighted_sum(c1, run_linear(forward(), x, first)) +
             weighted_sum(c2, run_linear(forward(), x, second));
    };
    const Tensor d_x = arena_.floats({4, 6}), d_w1 = zeros({5, 6}), d_w2 = zeros({3, 6});
    const Tensor d_a = zeros({2, 6}), d_b = zeros({5, 2});
    const LinearGradient layers[] = {
        {&first, c1, d_w1, tuned ? d_a : Tensor(), tuned ? d_b : Tensor()},
        {&second, c2, d_w2, {}, {}}};
    ops().linear(x, layers, d_x);
    expect_derivative(x, d_x, loss, "x");
    expect_derivative(w1, d_w1, loss, "first weight");
    expect_derivative(w2, d_w2, loss, "second weight");
    if (!tuned) continue;
    expect_derivative(addend.a, d_a, loss, "A");
    expect_derivative(addend.b, d_b, loss, "B");
  }
}

// A gate and its up, whose addends share A and what it drops, and a layer that drops nothing.
TEST_P(GradientTest, LinearWithDropout) {
  const std::int64_t rows = 4, k = 6, n = 3;
  const SwiGlu params;
  const Dropout dropout{0.4f, 17};
  const Tensor x = arena_.random({rows, k}), a = arena_.random({2, k}), d_a = zeros({2, k});
  std::vector<Tensor> b, d_b;
  std::vector<LowRank> addends;
  std::vector<Linear> layers;
  for (std::size_t i = 0; i < 3; ++i) {
    b.push_back(arena_.random({n, 2}));
    d_b.push_back(zeros({n, 2}));
    addends.push_back({a, b.back(), 0.5f, i == 2 ? nullptr : &dropout});
    layers.push_back({f32_matrix(arena_.random({n, k}))});
  }
  for (std::size_t i = 0; i < 3; ++i) layers[i].addend = &addends[i];
  const Tensor gate = arena_.floats({rows, n}), up = arena_.floats({rows, n});
  const Tensor product = arena_.floats({rows, n}), other = arena_.floats({rows, n});
  const Tensor c1 = arena_.random({rows, n}), c2 = arena_.random({rows, n});
  const auto loss = [&] {
    const LinearOutput outputs[] = {
        {&layers[0], gate, &params, product}, {&layers[1], up}, {&layers[2], other}};
    dropped_linear(forward(), x, outputs);
    return weighted_sum(c1, product) + weighted_sum(c2, other);
  };
  const double dropped = loss();
  const Tensor d_gate = arena_.floats({rows, n}), d_up = arena_.floats({rows, n});
  const Tensor d_x = arena_.floats({rows, k});
  ops().swiglu(gate, up, params, c1, d_gate, d_up);
  const LinearGradient gradients[] = {{&layers[0], d_gate, {}, d_a, d_b[0]},
                                      {&layers[1], d_up, {}, d_a, d_b[1]},
                                      {&layers[2], c2, {}, d_a, d_b[2]}};
  dropped_linear_gradient(forward(), x, gradients, d_x);
  expect_derivative(x, d_x, loss, "x");
  expect_derivative(a, d_a, loss, "A");
  for (std::size_t i = 0; i < 3; ++i) expect_derivative(b[i], d_b[i], loss, on("B of {}", i));
  addends[0].dropout = addends[1].dropout = nullptr;
  EXPECT_NE(loss(), dropped);
}

TEST_P(GradientTest, DropoutKeepsTheMean) {
  const Tensor x = arena_.floats({200, 50}), out = arena_.floats({200, 50});
  std::fill_n(x.as<float>(), x.elements(), 1.0f);
  ops().dropout(x, {0.3f, 5}, 2, out);
  double sum = 0, zeros = 0;
  for (std::int64_t i = 0; i < out.elements(); ++i) {
    const float value = out.as<float>()[i];
    sum += value;
    zeros += value == 0;
    EXPECT_FLOAT_EQ(value, value == 0 ? 0 : 2 / 0.7f);
  }
  EXPECT_NEAR(sum / 10'000, 2, 0.06);
  EXPECT_NEAR(zeros / 10'000, 0.3, 0.02);
}

TEST_P(GradientTest, EmbeddingAndSplit) {
  const Tensor ids = arena_.of<std::int32_t>({4}, {2, -1, 0, 2});
  const Tensor d_out = arena_.of<float>({4, 2}, {1, 2, 3, 4, 5, 6, 7, 8}), d_table = zeros({3, 2});
  ops().embed(ids, d_out, d_table);
  expect_same(d_table, arena_.of<float>({3, 2}, {5, 6, 0, 0, 8, 10}), "table");
  const Tensor both = arena_.random({3, 5}), x = arena_.floats({3, 2}), y = arena_.floats({3, 3});
  const Tensor joined = arena_.floats({3, 5});
  ops().split(both, x, y);
  forward().concat(x, y, joined);
  expect_same(joined, both, "split and joined");
}

TEST_P(GradientTest, CrossEntropy) {
  const Tensor z = arena_.random({3, 7}, 2);
  const Tensor labels = arena_.of<std::int32_t>({3}, {4, kNotScored, 0});
  const auto run = [&](const Tensor& losses) {
    const Tensor d = arena_.copy(z);
    ops().cross_entropy(d, labels, 0.5f, losses);
    return d;
  };
  const Tensor losses = arena_.floats({3});
  const Tensor d_z = run(losses);
  EXPECT_EQ(losses.as<float>()[1], 0);
  expect_derivative(
      z, d_z,
      [&] {
        run(losses);
        return 0.5 * (losses.as<float>()[0] + losses.as<float>()[1] + losses.as<float>()[2]);
      },
      "logits");
}

// Two sequences of several blocks, listed or all, with and without a mask; a row that attends to
// nothing gives nothing.
TEST_P(GradientTest, Attention) {
  const std::int64_t tokens = 4, heads = 4, kv_heads = 2, dim = 4, rows_count = 12;
  TestCache cache({.dtype = DType::kF32,
                   .page_tokens = tokens,
                   .kv_heads = kv_heads,
                   .head_dim = dim,
                   .order = PageOrder::kRows},
                  {9, 3});
  std::vector<std::pair<std::int32_t, std::int64_t>> places;
  for (std::int64_t slot = 0; slot < 9; ++slot) places.emplace_back(0, slot);
  for (std::int64_t slot = 0; slot < 3; ++slot) places.emplace_back(1, slot);
  Rows rows = cache.rows(arena_, places);
  const Tensor bias = arena_.random({rows_count, 9}), last = arena_.make(DType::kI64, {rows_count});
  for (std::int64_t row = 0; row < rows_count; ++row) {
    last.as<std::int64_t>()[row] = row < 9 ? 8 : 2;
    for (std::int64_t t = 0; t < 9; ++t)  // row 4 sees nothing, others also what comes later
      if (row == 4 || (row + t) % 3 == 0 || t > last.as<std::int64_t>()[row])
        bias.row<float>(row)[t] = -std::numeric_limits<float>::infinity();
  }
  const Tensor q = arena_.random({rows_count, heads * dim});
  const Tensor k = arena_.random({rows_count, kv_heads * dim});
  const Tensor v = arena_.random({rows_count, kv_heads * dim}),
               c = arena_.random({rows_count, heads * dim});
  // Rotations by no angle, and no norm: what is stored is k.
  const Tensor still = arena_.of<float>({rows_count, 2}, [] {
    std::vector<float> angles;
    for (int i = 0; i < 12; ++i) angles.insert(angles.end(), {1, 0});
    return angles;
  }());
  const HeadNorm none{{}, 1e-6f, still};
  const Tensor blocks = arena_.make(DType::kI32, {rows_count, kv_heads, 2});
  for (std::int64_t row = 0; row < rows_count; ++row)
    for (std::int64_t h = 0; h < kv_heads; ++h) {
      std::int32_t* list = blocks.row<std::int32_t>(row) + h * 2;
      const auto own =
          static_cast<std::int32_t>(places[static_cast<std::size_t>(row)].second / tokens);
      list[0] = h == 0 ? 0 : own;
      list[1] = h == 0 && own > 0 ? own : -1;
    }
  blocks.row<std::int32_t>(6)[2] = -1;  // row 6 of the second head: nothing
  for (const int way : {0, 1, 2, 3}) {
    const Tensor* list = way % 2 == 0 ? nullptr : &blocks;
    rows.mask = way < 2 ? RowMask() : RowMask{bias, last};
    Tensor out;
    const Tensor log_sums = arena_.floats({rows_count, heads});
    const auto loss = [&] {
      forward().store_kv(k, v, none, rows, cache.kv);
      out = run_attention(forward(), q, rows, cache.kv, 0.7f, list, log_sums);
      return weighted_sum(c, out);
    };
    loss();
    const Tensor d_q = arena_.floats({rows_count, heads * dim});
    const Tensor d_k = arena_.floats({rows_count, kv_heads * dim});
    const Tensor d_v = arena_.floats({rows_count, kv_heads * dim});
    ops().attention(q, rows, cache.kv, 0.7f, list, out, log_sums, c, d_q, d_k, d_v);
    const std::string what =
        std::string(way < 2 ? "" : "masked, ") + (list == nullptr ? "all, " : "listed, ");
    const std::int64_t every = way < 2 ? 1 : 5;
    expect_derivative(q, d_q, loss, what + "q", 0.02f, every);
    expect_derivative(k, d_k, loss, what + "k", 0.02f, every);
    expect_derivative(v, d_v, loss, what + "v", 0.02f, every);
    if (way >= 2) {
      EXPECT_EQ(largest(out.rows(4, 5)), 0);
      EXPECT_EQ(largest(d_q.rows(4, 5)), 0);
    }
    if (list == nullptr) continue;
    for (std::int64_t i = 2 * dim; i < 4 * dim; ++i) EXPECT_EQ(d_q.row<float>(6)[i], 0);
  }
}

// The weight of a single pick is 1, whatever its score.
TEST_P(GradientTest, Router) {
  const std::vector<std::int32_t> picks[] = {
      {0, 2, 3}, {0, 2, 1, 3, 0, 1}, {0, 1, 2, 1, 2, 3, 0, 1, 3}};
  for (const RouterScore score : {RouterScore::kSigmoid, RouterScore::kSoftmax})
    for (const std::int64_t k : {1, 2, 3}) {
      const Tensor x = arena_.random({3, 6}), gate = arena_.random({4, 6});
      const Router router{f32_matrix(gate), arena_.random({4}), score};
      const Tensor experts = arena_.of({3, k}, picks[k - 1]);
      const Tensor weights = arena_.floats({3, k}), c = arena_.random({3, k});
      const auto loss = [&] {
        forward().route(x, router, /*picked_before=*/true, experts, weights);
        return weighted_sum(c, weights);
      };
      const Tensor d_x = zeros({3, 6}), d_gate = zeros({4, 6});
      ops().route(x, router, experts, c, d_x, d_gate);
      expect_derivative(x, d_x, loss, on("x, {} picks", k));
      expect_derivative(gate, d_gate, loss, on("gate, {} picks", k));
      if (k > 1) continue;
      for (std::int64_t row = 0; row < 3; ++row) EXPECT_EQ(weights.as<float>()[row], 1);
      EXPECT_LE(largest(d_x), 1e-6);
      EXPECT_LE(largest(d_gate), 1e-6);
    }
}

// The load balance of a router: f is a constant, so the loss is differentiated with it held.
TEST_P(GradientTest, LoadBalance) {
  const std::int64_t rows = 5, hidden = 6, count = 4;
  for (const RouterScore score : {RouterScore::kSigmoid, RouterScore::kSoftmax}) {
    const Tensor x = arena_.random({rows, hidden}), gate = arena_.random({count, hidden});
    const Router router{f32_matrix(gate), {}, score};
    const Tensor experts = arena_.of<std::int32_t>({rows, 2}, {0, 2, 0, 1, 0, 2, 1, 2, 0, 2});
    const double loads[] = {4 * 0.4, 4 * 0.2, 4 * 0.4, 0};
    const auto loss = [&] {
      const Tensor z = run_linear(forward(), x, {router.gate});
      double sum = 0;
      for (std::int64_t row = 0; row < rows; ++row) {
        double scores[count], all = 0;
        for (std::int64_t e = 0; e < count; ++e) {
          const double logit = z.row<float>(row)[e];
          scores[e] = score == RouterScore::kSoftmax ? std::exp(logit) : 1 / (1 + std::exp(-logit));
          all += scores[e];
        }
        for (std::int64_t e = 0; e < count; ++e)
          sum += loads[e] * scores[e] / all / static_cast<double>(rows);
      }
      return 30 * sum;
    };
    const Tensor d_x = zeros({rows, hidden}), d_gate = zeros({count, hidden});
    const Tensor value = arena_.floats({1});
    ops().balance(x, router, experts, 30, value, d_x, d_gate);
    EXPECT_NEAR(30 * value.as<float>()[0], loss(), is_reference() ? 1e-4 : 30 * kBf16);
    expect_derivative(x, d_x, loss, "x");
    expect_derivative(gate, d_gate, loss, "gate");
    ops().balance(x, router, experts, 30, value, d_x, {});  // adds, and the gate may be frozen
    for (std::int64_t i = 0; i < d_x.elements(); ++i) d_x.as<float>()[i] /= 2;
    expect_derivative(x, d_x, loss, "x, twice");
  }
}

// Two sequences of several blocks and K/V heads of two query heads each.
class DivergenceTest : public GradientTest {
 protected:
  static constexpr std::int64_t kTokens = 4, kHeads = 4, kKvHeads = 2, kDim = 4, kRows = 12;

  DivergenceTest()
      : cache_({.dtype = DType::kF32,
                .page_tokens = kTokens,
                .kv_heads = kKvHeads,
                .head_dim = kDim,
                .order = PageOrder::kRows},
               {9, 3}) {
    for (std::int64_t slot = 0; slot < 9; ++slot) places_.emplace_back(0, slot);
    for (std::int64_t slot = 0; slot < 3; ++slot) places_.emplace_back(1, slot);
    rows_ = cache_.rows(arena_, places_);
    attention_ = {arena_.random({kRows, kHeads * kDim}, 2), cache_.kv, 0.7f};
    q_ = arena_.random({kRows, kKvHeads * kDim}, 2);
    k_ = arena_.random({kRows, kDim});
    put_keys();
  }

  void put_keys() {
    for (std::int64_t row = 0; row < kRows; ++row)
      for (std::int64_t i = 0; i < kDim; ++i) {
        const auto& [sequence, slot] = places_[static_cast<std::size_t>(row)];
        cache_.set_index_key(sequence, slot, i, k_.row<float>(row)[i]);
      }
  }

  struct Shares {
    std::vector<double> attended, ranked;  // [visible blocks]
  };
  // By the definition in ops/gradients.h, plainly.
  Shares shares(std::int64_t row, std::int64_t head, const Selection& selection) {
    const auto [sequence, slot] = places_[static_cast<std::size_t>(row)];
    const auto blocks = static_cast<std::size_t>(slot / kTokens + 1);
    Shares s{std::vector<double>(blocks, 0.0), {}};
    for (std::int64_t h = 2 * head; h < 2 * head + 2; ++h) {
      std::vector<double> weights;
      double sum = 0;
      for (std::int64_t j = 0; j <= slot; ++j) {
        double score = 0;
        for (std::int64_t i = 0; i < kDim; ++i)
          score +=
              double{attention_.q.row<float>(row)[h * kDim + i]} * cache_.key(sequence, j, head, i);
        sum += weights.emplace_back(std::exp(0.7f * score));
      }
      for (std::int64_t j = 0; j <= slot; ++j)
        s.attended[static_cast<std::size_t>(j / kTokens)] +=
            weights[static_cast<std::size_t>(j)] / sum / 2;
    }
    double all = 0;
    for (std::int64_t begin = 0; begin <= slot; begin += kTokens) {
      double best = -INFINITY, sum = 0;
      for (std::int64_t j = begin; j < std::min(begin + kTokens, slot + 1); ++j) {
        double score = 0;
        for (std::int64_t i = 0; i < kDim; ++i)
          score += double{q_.row<float>(row)[head * kDim + i]} * cache_.index_key(sequence, j, i);
        best = std::max(best, selection.scale * score);
        sum += std::exp(selection.scale * score);
      }
      all += s.ranked.emplace_back(selection.score_type == ScoreType::kMax ? std::exp(best) : sum);
    }
    for (double& share : s.ranked) share /= all;
    return s;
  }
  double divergence(std::int64_t row, std::int64_t head, const Selection& selection) {
    const Shares s = shares(row, head, selection);
    double sum = 0;
    for (std::size_t b = 0; b < s.ranked.size(); ++b)
      sum += s.attended[b] * std::log(s.attended[b] / s.ranked[b]);
    return sum;
  }

  void run(const Selection& selection, float scale) {
    blocks_ = run_select(forward(), q_, rows_, cache_.index, selection);
    ops().divergence(q_, rows_, cache_.index, selection, blocks_, attention_, scale,
                     {divergences_, overlaps_, masses_}, d_q_, d_k_);
  }

  TestCache cache_;
  std::vector<std::pair<std::int32_t, std::int64_t>> places_;
  Rows rows_;
  AttentionScores attention_;
  Tensor q_, k_, blocks_;
  Tensor divergences_ = arena_.floats({kRows, kKvHeads});
  Tensor overlaps_ = arena_.floats({kRows, kKvHeads});
  Tensor masses_ = arena_.floats({kRows, kKvHeads});
  Tensor d_q_ = arena_.floats({kRows, kKvHeads*kDim}), d_k_ = arena_.floats({kRows, kDim});
};

TEST_P(DivergenceTest, OfTheIndexerFromAttention) {
  for (const ScoreType type : {ScoreType::kMax, ScoreType::kLse}) {
    const Selection selection{.topk = 2, .score_type = type, .scale = 0.6f};
    const auto loss = [&] {
      put_keys();
      double sum = 0;
      for (std::int64_t row = 0; row < kRows; ++row)
        for (std::int64_t head = 0; head < kKvHeads; ++head)
          sum += divergence(row, head, selection);
      return 1.5 * sum;
    };
    run(selection, 1.5f);
    for (std::int64_t row = 0; row < kRows; ++row)
      for (std::int64_t head = 0; head < kKvHeads; ++head)
        EXPECT_NEAR(divergences_.row<float>(row)[head], divergence(row, head, selection), 1e-5);
    // Steps so short that another token is hardly ever the best of its block.
    expect_derivative(q_, d_q_, loss, "q", 2e-3f);
    expect_derivative(k_, d_k_, loss, "k", 2e-3f);
  }
}

// Descending along the derivative, the indexer comes to pick the blocks that attention looks at.
TEST_P(DivergenceTest, GoneDownPicksWhatAttentionLooksAt) {
  const Selection selection{.topk = 1, .local_blocks = 0, .scale = 0.6f};
  const auto picked = [&] {  // of the rows of three blocks, by the definition
    int best = 0;
    for (std::int64_t head = 0; head < kKvHeads; ++head) {
      const Shares s = shares(8, head, selection);
      const auto attended = std::ranges::max_element(s.attended) - s.attended.begin();
      const bool is_picked = blocks_.row<std::int32_t>(8)[head] == attended;
      EXPECT_EQ(overlaps_.row<float>(8)[head], is_picked ? 1 : 0);
      const auto block = static_cast<std::size_t>(blocks_.row<std::int32_t>(8)[head]);
      EXPECT_NEAR(masses_.row<float>(8)[head], s.attended[block], 1e-5);
      best += is_picked;
    }
    return best;
  };
  const auto sum = [&] {
    return std::accumulate(divergences_.as<float>(), divergences_.as<float>() + kRows * kKvHeads,
                           0.0);
  };
  run(selection, 1);
  const double before = sum();
  picked();
  for (int step = 0; step < 300; ++step) {
    for (std::int64_t i = 0; i < q_.elements(); ++i)
      q_.as<float>()[i] -= 0.5f * d_q_.as<float>()[i];
    for (std::int64_t i = 0; i < k_.elements(); ++i)
      k_.as<float>()[i] -= 0.1f * d_k_.as<float>()[i];
    put_keys();
    run(selection, 1);
  }
  EXPECT_LT(sum(), 0.1 * before);
  EXPECT_EQ(picked(), kKvHeads);
}

// The whole mixture: gate and up, weights, down, an expert that nobody picks. Each with an addend,
// the gate's and the up's over one A.
TEST_P(GradientTest, Experts) {
  const std::int64_t count = 3, tokens = 3, k = 2, cols = 5, inner = 4;
  const SwiGlu params;
  const float scale = 1.5f;
  std::vector<Tensor> values[3], d_values[3];
  std::vector<Linear> layers[3];  // gate, up, down
  for (std::size_t l = 0; l < 3; ++l)
    for (std::int64_t e = 0; e < count; ++e) {
      const std::int64_t n = l == 2 ? cols : inner, m = l == 2 ? inner : cols;
      values[l].push_back(arena_.random({n, m}));
      d_values[l].push_back(zeros({n, m}));
      Matrix w{&codec_of(Format::kF32), values[l].back(), {}};
      w.rows = n, w.cols = m;
      layers[l].push_back({w});
    }
  const std::int64_t rank = 2;
  std::vector<Tensor> a[3], b[3], d_a[3], d_b[3];
  std::vector<LowRank> addends[3];
  for (std::size_t l = 0; l < 3; ++l) {
    for (std::size_t e = 0; e < 3; ++e) {
      const Matrix& w = layers[l][e].weight;
      a[l].push_back(l == 1 ? a[0][e] : arena_.random({rank, w.cols}));
      d_a[l].push_back(l == 1 ? d_a[0][e] : zeros({rank, w.cols}));
      b[l].push_back(arena_.random({w.rows, rank}));
      d_b[l].push_back(zeros({w.rows, rank}));
      addends[l].push_back({a[l][e], b[l][e], 0.5f});
    }
    for (std::size_t e = 0; e < 3; ++e) layers[l][e].addend = &addends[l][e];
  }
  const Tensor x = arena_.random({tokens, cols}), weights = arena_.random({tokens, k});
  const Tensor picks = arena_.of<std::int32_t>({tokens, k}, {0, 2, 0, 2, 2, 0});
  const Dispatch d = make_dispatch(count, tokens, k);
  forward().dispatch(picks, d);
  const auto dispatched = [&](std::int64_t dim) { return arena_.floats({tokens * k, dim}); };
  const Tensor gate = dispatched(inner), up = dispatched(inner), product = dispatched(inner);
  const Tensor down = dispatched(cols), out = arena_.floats({tokens, cols});
  const Tensor c = arena_.random({tokens, cols});
  const auto loss = [&] {
    const GroupedOutput in[] = {{layers[0], gate, &params, product}, {layers[1], up}};
    const GroupedOutput back[] = {{layers[2], down}};
    forward().grouped_linear(x, d, /*gather=*/true, in, {});
    forward().grouped_linear(product, d, /*gather=*/false, back, {});
    forward().combine(down, d, weights, scale, {}, out);
    return weighted_sum(c, out);
  };
  loss();

  const Tensor d_rows = dispatched(cols), scaled = dispatched(inner), d_product = dispatched(inner);
  const Tensor d_gate = dispatched(inner), d_up = dispatched(inner), d_in = dispatched(cols);
  const Tensor d_weights = arena_.floats({tokens, k}), d_x = arena_.floats({tokens, cols});
  forward().gather_rows(c, d.rows, d_rows);
  ops().weighted(product, d, weights, scale, scaled);
  const GroupedGradient back[] = {{layers[2], d_rows, d_values[2], d_a[2], d_b[2]}};
  ops().grouped_linear(scaled, d, /*gather=*/false, back, d_product);
  ops().weigh(product, d, weights, scale, d_product, d_weights);
  ops().swiglu(gate, up, params, d_product, d_gate, d_up);
  const GroupedGradient in[] = {{layers[0], d_gate, d_values[0], d_a[0], d_b[0]},
                                {layers[1], d_up, d_values[1], d_a[1], d_b[1]}};
  ops().grouped_linear(x, d, /*gather=*/true, in, d_in);
  ops().undispatch(d_in, d, d_x);
  expect_derivative(x, d_x, loss, "x");
  expect_derivative(weights, d_weights, loss, "weights");
  for (std::size_t l = 0; l < 3; ++l)
    for (std::size_t e = 0; e < 3; ++e) {
      const std::string what = on("layer {}, expert {}", l, e);
      expect_derivative(values[l][e], d_values[l][e], loss, what);
      expect_derivative(a[l][e], d_a[l][e], loss, "A of " + what);
      expect_derivative(b[l][e], d_b[l][e], loss, "B of " + what);
    }
  EXPECT_EQ(largest(d_values[0][1]), 0);
  EXPECT_EQ(largest(d_a[0][1]), 0);
}

// On cpu, whose index keys are rounded: gradient_kernels_test.cc.
INSTANTIATE_TEST_SUITE_P(Machines, DivergenceTest, testing::Values(Machine{"reference", ""}),
                         machine_name);

// Every instruction set has the same ones.
INSTANTIATE_TEST_SUITE_P(Machines, GradientTest,
                         testing::Values(Machine{"reference", ""}, machines(false).front()),
                         machine_name);

}  // namespace
}  // namespace m3
