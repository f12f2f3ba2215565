// Derivatives of every instruction set against the reference's: every format, odd shapes, any
// number of threads.
#include <array>

#include "backend/op_testing.h"
#include "backend/op_testing_cache.h"
#include "ops/gradients.h"
#include "tensor/float_matrix.h"

namespace m3 {
namespace {

class GradientKernelTest : public OpTest {
 protected:
  GradientOps& ops() { return *backend_->gradients(); }
  GradientOps& exact() { return *reference_->gradients(); }

  Tensor zeros(std::initializer_list<std::int64_t> shape) {
    const Tensor x = arena_.floats(shape);
    std::fill_n(x.as<float>(), x.elements(), 0.0f);
    return x;
  }

  // Sums of products that numbers were rounded `roundings` times for; a wrong term would show, as
  // there are some hundred at most.
  static void expect_close(const Tensor& actual, const Tensor& expected, int roundings,
                           const std::string& what) {
    double largest = 0;
    for (std::int64_t i = 0; i < expected.elements(); ++i)
      largest = std::max(largest, std::abs(double{expected.as<float>()[i]}));
    expect_near(actual, expected, what,
                [&](std::int64_t) { return roundings * kBf16 * largest + kTiny; });
  }

  struct LinearResult {
    Tensor d_x, d_weight, d_a, d_b, d_other;
  };
  // A layer with an addend, and another one of the same rows.
  LinearResult run(GradientOps& ops, const Tensor& x, const std::array<Linear, 2>& layers,
                   const std::array<Tensor, 2>& d_outs) {
    const std::int64_t rows = x.dim(0), k = x.dim(1), n = layers[0].weight.rows;
    const LowRank& addend = *layers[0].addend;
    const LinearResult r{arena_.floats({rows, k}), zeros({n, k}), zeros({addend.a.dim(0), k}),
                         zeros({n, addend.a.dim(0)}), zeros({layers[1].weight.rows, k})};
    r.d_weight.as<float>()[0] = 5;  // derivatives by weights add
    const LinearGradient gradients[] = {{&layers[0], d_outs[0], r.d_weight, r.d_a, r.d_b},
                                        {&layers[1], d_outs[1], r.d_other, {}, {}}};
    ops.linear(x, gradients, r.d_x);
    return r;
  }
};

constexpr Format kFormats[] = {Format::kBF16,  Format::kMxfp8, Format::kF16, Format::kF32,
                               Format::kMxfp4, Format::kNvfp4, Format::kInt8};

TEST_P(GradientKernelTest, LinearLayersOfEveryFormat) {
  const struct {
    std::int64_t rows, n, k;
  } shapes[] = {{1, 3, 32}, {7, 70, 160}, {33, 129, 288}, {390, 300, 64}};
  for (const Format format : kFormats)
    for (const auto& [rows, n, k] : shapes)
      for (const bool packed : {false, true}) {
        const Codec& codec = codec_of(format);
        std::array<Linear, 2> layers{
            {{arena_.random_matrix(codec, n, k)}, {arena_.random_matrix(codec, n / 2 + 1, k)}}};
        for (Linear& layer : layers) {
          if (format == Format::kNvfp4) layer.weight.scale = 0.3f;
          if (packed) layer.weight = arena_.packed(*backend_, layer.weight);
        }
        const LowRank addend{arena_.random({3, k}), arena_.random({n, 3}), 0.5f};
        layers[0].addend = &addend;
        const Tensor x = arena_.random({rows, k});
        const std::array d_outs = {arena_.random({rows, n}), arena_.random({rows, n / 2 + 1})};
        const LinearResult actual = run(ops(), x, layers, d_outs);
        const LinearResult expected = run(exact(), x, layers, d_outs);
        const std::string what =
            on("{} [{}, {}], {} rows{}", codec.name, n, k, rows, packed ? ", packed" : "");
        expect_close(actual.d_x, expected.d_x, 4, "d_x, " + what);
        expect_close(actual.d_weight, expected.d_weight, 2, "d_weight, " + what);
        expect_close(actual.d_other, expected.d_other, 2, "d_weight of the other, " + what);
        expect_close(actual.d_a, expected.d_a, 4, "d_a, " + what);
        expect_close(actual.d_b, expected.d_b, 4, "d_b, " + what);
        if (HasFailure()) return;
      }
}

TEST_P(GradientKernelTest, AnyNumberOfThreads) {
  ThreadPool three(3);
  const auto same = make(GetParam(), three);
  const std::array<Linear, 2> layers = [&] {
    std::array<Linear, 2> l{{{arena_.random_matrix(codec_of(Format::kMxfp8), 130, 320)},
                             {arena_.random_matrix(codec_of(Format::kBF16), 66, 320)}}};
    for (Linear& layer : l) layer.weight = arena_.packed(*backend_, layer.weight);
    return l;
  }();
  const LowRank addend{arena_.random({2, 320}), arena_.random({130, 2}), 2};
  std::array<Linear, 2> tuned = layers;
  tuned[0].addend = &addend;
  const Tensor x = arena_.random({400, 320});
  const std::array d_outs = {arena_.random({400, 130}), arena_.random({400, 66})};
  const LinearResult one = run(ops(), x, tuned, d_outs);
  const LinearResult many = run(*same->gradients(), x, tuned, d_outs);
  expect_same(many.d_x, one.d_x, on("d_x"));
  expect_same(many.d_weight, one.d_weight, on("d_weight"));
  expect_same(many.d_a, one.d_a, on("d_a"));
  expect_same(many.d_b, one.d_b, on("d_b"));
}

TEST_P(GradientKernelTest, ExpertsWithAndWithoutRows) {
  const std::int64_t experts = 4, tokens = 45, k = 2, columns = 96, inner = 70;
  const Tensor picks = arena_.make(DType::kI32, {tokens, k});
  for (std::int64_t t = 0; t < tokens; ++t) {  // nobody picks expert 2
    picks.row<std::int32_t>(t)[0] = t % 5 == 0 ? 1 : 0;
    picks.row<std::int32_t>(t)[1] = 3;
  }
  const Dispatch d = make_dispatch(experts, tokens, k);
  reference_->dispatch(picks, d);
  for (const Format format : {Format::kMxfp8, Format::kF32}) {
    std::vector<Linear> gate, up;
    for (std::int64_t e = 0; e < experts; ++e)
      for (auto* list : {&gate, &up})
        list->push_back(
            {arena_.packed(*backend_, arena_.random_matrix(codec_of(format), inner, columns))});
    const std::int64_t rank = 3;
    std::vector<LowRank> addends[2];
    for (std::int64_t e = 0; e < experts; ++e) {
      const Tensor a = arena_.random({rank, columns});  // gate and up share it
      for (auto& list : addends) list.push_back({a, arena_.random({inner, rank}), 0.5f});
    }
    for (std::size_t e = 0; e < gate.size(); ++e)
      gate[e].addend = &addends[0][e], up[e].addend = &addends[1][e];
    const Tensor d_gate = arena_.random({tokens * k, inner});
    const Tensor d_up = arena_.random({tokens * k, inner});
    const auto run_on = [&](GradientOps& ops, const Tensor& x, bool gather) {
      std::vector<Tensor> d_weights;
      for (std::int64_t e = 0; e < experts; ++e) d_weights.push_back(zeros({inner, columns}));
      const Tensor d_x = arena_.floats({tokens * k, columns});
      std::vector<Tensor> d_a, d_b[2];
      for (std::int64_t e = 0; e < experts; ++e) {
        d_a.push_back(zeros({rank, columns}));
        for (auto& list : d_b) list.push_back(zeros({inner, rank}));
      }
      const GroupedGradient layers[] = {{gate, d_gate, d_weights, d_a, d_b[0]},
                                        {up, d_up, {}, d_a, d_b[1]}};
      ops.grouped_linear(x, d, gather, layers, d_x);
      for (const auto& list : {std::vector{d_x}, d_a, d_b[0], d_b[1]})
        d_weights.insert(d_weights.end(), list.begin(), list.end());
      return d_weights;
    };
    for (const bool gather : {true, false}) {
      const Tensor x = arena_.random({gather ? tokens : tokens * k, columns});
      const std::vector<Tensor> actual = run_on(ops(), x, gather);
      const std::vector<Tensor> expected = run_on(exact(), x, gather);
      for (std::size_t i = 0; i < actual.size(); ++i)
        expect_close(actual[i], expected[i], 2,
                     on("{} of {}{}", i, codec_of(format).name, gather ? ", gathered" : ""));
    }
  }
}

TEST_P(GradientKernelTest, Attention) {
  const struct {
    std::int64_t heads, kv_heads, dim, page_tokens;
    std::vector<std::int64_t> lengths;
  } cases[] = {{4, 2, 4, 4, {9, 3}},
               {3, 1, 6, 5, {23, 1}},  // odd numbers of queries and tokens
               {16, 1, 32, 16, {70}},
               {6, 2, 18, 8, {40, 2, 8}}};
  for (const auto& c : cases)
    for (const DType dtype : kCacheDTypes)
      for (const bool listed : {false, true}) {
        const TestCache cache({.dtype = dtype,
                               .page_tokens = c.page_tokens,
                               .kv_heads = c.kv_heads,
                               .head_dim = c.dim},
                              c.lengths);
        std::vector<std::pair<std::int32_t, std::int64_t>> places;
        for (std::size_t s = 0; s < c.lengths.size(); ++s)
          for (std::int64_t slot = 0; slot < c.lengths[s]; ++slot)
            places.emplace_back(static_cast<std::int32_t>(s), slot);
        const Rows rows = cache.rows(arena_, places);
        const std::int64_t count = std::ssize(places), topk = 2;
        const Tensor blocks = arena_.make(DType::kI32, {count, c.kv_heads, topk});
        for (std::int64_t row = 0; row < count; ++row)
          for (std::int64_t h = 0; h < c.kv_heads; ++h) {
            const auto own = static_cast<std::int32_t>(
                places[static_cast<std::size_t>(row)].second / c.page_tokens);
            std::int32_t* list = blocks.row<std::int32_t>(row) + h * topk;
            const auto other = static_cast<std::int32_t>(arena_.generator().below(own + 1));
            list[0] = row % 7 == 3 ? -1 : other;  // some rows attend to nothing
            list[1] = row % 7 == 3 || other == own || row % 3 == 0 ? -1 : own;
          }
        const Tensor* list = listed ? &blocks : nullptr;
        const std::int64_t width = c.heads * c.dim, kv_width = c.kv_heads * c.dim;
        const Tensor q = arena_.random({count, width}, 2), d_out = arena_.random({count, width});
        const Tensor log_sums = arena_.floats({count, c.heads});
        const Tensor out = run_attention(*reference_, q, rows, cache.kv, 0.4f, list, log_sums);
        const auto run_on = [&](GradientOps& ops) {
          const std::array<Tensor, 3> d = {arena_.floats({count, width}),
                                           arena_.floats({count, kv_width}),
                                           arena_.floats({count, kv_width})};
          ops.attention(q, rows, cache.kv, 0.4f, list, out, log_sums, d_out, d[0], d[1], d[2]);
          return d;
        };
        const auto actual = run_on(ops()), expected = run_on(exact());
        const char* names[] = {"d_q", "d_k", "d_v"};
        for (std::size_t i = 0; i < 3; ++i)
          expect_close(actual[i], expected[i], 3,
                       on("{} of {} heads of {}, pages of {}{}, {}", names[i], c.heads, c.dim,
                          c.page_tokens, listed ? ", listed" : "", dtype_name(dtype)));
        const Tensor own_sums = arena_.floats({count, c.heads});
        run_attention(*backend_, q, rows, cache.kv, 0.4f, list, own_sums);
        expect_near(own_sums, log_sums, on("log sums"), [](std::int64_t) { return 8 * kBf16; });
      }
}

TEST_P(GradientKernelTest, SwiGluAndCrossEntropy) {
  const SwiGlu params;
  const Tensor gate = arena_.random({5, 37}, 9), up = arena_.random({5, 37}, 9);
  const Tensor d_out = arena_.random({5, 37});
  for (const float at_limit : {7.0f, -7.0f}) {
    gate.as<float>()[at_limit > 0 ? 3 : 4] = at_limit;
    up.as<float>()[at_limit > 0 ? 5 : 6] = at_limit;
  }
  const Tensor labels = arena_.of<std::int32_t>({5}, {0, kNotScored, 36, 7, 7});
  const auto run_on = [&](GradientOps& ops) {
    const std::array<Tensor, 4> r = {arena_.floats({5, 37}), arena_.floats({5, 37}),
                                     arena_.copy(gate), arena_.floats({5})};
    ops.swiglu(gate, up, params, d_out, r[0], r[1]);
    ops.cross_entropy(r[2], labels, 0.25f, r[3]);
    return r;
  };
  const auto actual = run_on(ops()), expected = run_on(exact());
  for (std::size_t i = 0; i < actual.size(); ++i)
    expect_near(actual[i], expected[i], on("result {}", i), [&](std::int64_t at) {
      return 64 * kF32 * std::max(1.0f, std::abs(expected[i].as<float>()[at]));
    });
}

TEST_P(GradientKernelTest, Norms) {
  const std::int64_t rows = 130, heads = 3, dim = 37, width = heads * dim;
  const Tensor x = arena_.random({rows, width}), d_out = arena_.random({rows, width});
  const Tensor wide = arena_.random({width}), narrow = arena_.random({dim});
  const HeadNorm norm{narrow, 1e-3f, arena_.random({rows, 18})};
  const auto run_on = [&](GradientOps& ops) {
    const std::array<Tensor, 4> d = {arena_.copy(d_out), zeros({width}),
                                     arena_.floats({rows, width}), zeros({dim})};
    ops.rms_norm(x, wide, 1e-3f, d_out, d[0], d[1]);
    ops.norm_rope(x, norm, d_out, d[2], d[3]);
    return d;
  };
  const auto actual = run_on(ops()), expected = run_on(exact());
  for (std::size_t i = 0; i < actual.size(); ++i)
    expect_near(actual[i], expected[i], on("result {}", i), [&](std::int64_t at) {
      return 256 * kF32 * std::max(8.0f, std::abs(expected[i].as<float>()[at]));
    });
}

TEST_P(GradientKernelTest, SegmentAttention) {
  const struct {
    std::int64_t heads, dim;
    std::vector<std::int32_t> segments;
  } cases[] = {{2, 4, {0, 5, 5, 6}}, {1, 18, {0, 131}}, {3, 7, {0, 300, 317, 560}}};
  for (const auto& c : cases) {
    const std::int64_t rows = c.segments.back(), width = c.heads * c.dim;
    const Tensor segments = arena_.of<std::int32_t>({std::ssize(c.segments)}, c.segments);
    const Tensor q = arena_.random_bf16({rows, width}, 2), k = arena_.random_bf16({rows, width});
    const Tensor v = arena_.random_bf16({rows, width}), d_out = arena_.random_bf16({rows, width});
    const Tensor out = arena_.floats({rows, width});
    reference_->segment_attention(q, k, v, segments, c.dim, 0.4f, out);
    const auto run_on = [&](GradientOps& ops) {
      const std::array<Tensor, 3> d = {arena_.floats({rows, width}), arena_.floats({rows, width}),
                                       arena_.floats({rows, width})};
      ops.segment_attention(q, k, v, segments, c.dim, 0.4f, out, d_out, d[0], d[1], d[2]);
      return d;
    };
    const auto actual = run_on(ops()), expected = run_on(exact());
    const char* names[] = {"d_q", "d_k", "d_v"};
    for (std::size_t i = 0; i < 3; ++i)
      expect_close(actual[i], expected[i], 3,
                   on("{} of {} heads of {}, {} rows", names[i], c.heads, c.dim, rows));
    ThreadPool three(3);
    const auto same = make(GetParam(), three);
    const auto many = run_on(*same->gradients());
    for (std::size_t i = 0; i < 3; ++i) expect_same(many[i], actual[i], on("{}", names[i]));
  }
}

TEST_P(GradientKernelTest, Divergence) {
  const struct {
    std::int64_t heads, kv_heads, dim, page_tokens;
    std::vector<std::int64_t> lengths;
  } cases[] = {{4, 2, 4, 4, {9, 3}},
               {3, 1, 6, 5, {23, 1}},
               {16, 1, 32, 16, {210}},  // several runs, which sum up apart
               {6, 2, 18, 8, {40, 2, 8}}};
  for (const auto& c : cases)
    for (const DType dtype : kCacheDTypes)
      for (const ScoreType type : {ScoreType::kMax, ScoreType::kLse}) {
        const TestCache cache({.dtype = dtype,
                               .page_tokens = c.page_tokens,
                               .kv_heads = c.kv_heads,
                               .head_dim = c.dim},
                              c.lengths);
        std::vector<std::pair<std::int32_t, std::int64_t>> places;
        for (std::size_t s = 0; s < c.lengths.size(); ++s)
          for (std::int64_t slot = 0; slot < c.lengths[s]; ++slot)
            places.emplace_back(static_cast<std::int32_t>(s), slot);
        const Rows rows = cache.rows(arena_, places);
        const std::int64_t count = std::ssize(places), width = c.kv_heads * c.dim;
        const Selection selection{.topk = 2, .score_type = type, .scale = 0.3f};
        // In bfloat16, so that both sides find the same token to be the best of a block.
        const Tensor q = arena_.random_bf16({count, width}, 2);
        const AttentionScores attention{arena_.random_bf16({count, c.heads * c.dim}, 2), cache.kv,
                                        0.4f};
        const Tensor blocks = run_select(*reference_, q, rows, cache.index, selection);
        const auto run_on = [&](GradientOps& ops) {
          const std::array<Tensor, 5> d = {
              arena_.floats({count, c.kv_heads}), arena_.floats({count, c.kv_heads}),
              arena_.floats({count, c.kv_heads}), arena_.floats({count, width}),
              arena_.floats({count, c.dim})};
          ops.divergence(q, rows, cache.index, selection, blocks, attention, 1.5f,
                         {d[0], d[1], d[2]}, d[3], d[4]);
          return d;
        };
        const auto actual = run_on(ops()), expected = run_on(exact());
        const char* names[] = {"divergences", "overlaps", "masses", "d_q", "d_k"};
        for (std::size_t i = 0; i < 5; ++i)
          expect_near(actual[i], expected[i],
                      on("{} of {} heads of {}, pages of {}, {}", names[i], c.heads, c.dim,
                         c.page_tokens, dtype_name(dtype)),
                      [&](std::int64_t at) {
                        return 64 * kF32 * std::max(1.0f, std::abs(expected[i].as<float>()[at]));
                      });
        ThreadPool three(3);
        const auto same = make(GetParam(), three);
        const auto many = run_on(*same->gradients());
        for (std::size_t i = 0; i < 5; ++i) expect_same(many[i], actual[i], on("{}", names[i]));
      }
}

TEST_P(GradientKernelTest, LayerNormAndGelu) {
  const std::int64_t rows = 130, dim = 37;
  const Tensor x = arena_.random({rows, dim}, 4), d_out = arena_.random({rows, dim});
  const float specials[] = {0.0f, 1e-20f, -1e-3f, 30.0f, -30.0f};
  std::copy(std::begin(specials), std::end(specials), x.as<float>());
  const Tensor bias = arena_.random({dim});
  const LayerNorm norm{arena_.random({dim}), arena_.random({dim}), 1e-3f};
  const auto run_on = [&](GradientOps& ops) {
    const std::array<Tensor, 6> d = {
        arena_.copy(d_out),         zeros({dim}), zeros({dim}), arena_.floats({rows, dim}),
        arena_.floats({rows, dim}), zeros({dim})};
    ops.layer_norm(x, norm, d_out, d[0], d[1], d[2]);
    ops.gelu(x, bias, d_out, d[3]);
    ops.gelu(x, {}, d_out, d[4]);
    ops.add_row(d_out, d[5]);
    return d;
  };
  const auto actual = run_on(ops()), expected = run_on(exact());
  for (std::size_t i = 0; i < actual.size(); ++i)
    expect_near(actual[i], expected[i], on("result {}", i), [&](std::int64_t at) {
      return 64 * kF32 * std::max(8.0f, std::abs(expected[i].as<float>()[at]));
    });
}

TEST_P(GradientKernelTest, Mixture) {
  const std::int64_t experts = 5, tokens = 33, hidden = 70, inner = 19;
  const Tensor x = arena_.random_bf16({tokens, hidden}), gate = arena_.random({experts, hidden});
  for (const RouterScore score : {RouterScore::kSigmoid, RouterScore::kSoftmax})
    for (const std::int64_t k : {1, 2}) {
      const Router router{f32_matrix(gate), {}, score};
      const Tensor weights = arena_.floats({tokens, k});
      const Tensor picks = arena_.make(DType::kI32, {tokens, k});
      const Tensor d_weights = arena_.random({tokens, k});
      const Dispatch d = make_dispatch(experts, tokens, k);
      reference_->route(x, router, false, picks, weights);
      reference_->dispatch(picks, d);
      const Tensor f = arena_.random({tokens * k, inner}), d_f = arena_.random({tokens * k, inner});
      const Tensor rows = arena_.random({tokens * k, hidden});
      const Tensor d_x = arena_.random({tokens, hidden});
      const auto run_on = [&](GradientOps& ops) {
        const std::array<Tensor, 6> r = {arena_.copy(d_x),
                                         zeros({experts, hidden}),
                                         arena_.copy(d_f),
                                         arena_.floats({tokens, k}),
                                         arena_.floats({tokens * k, inner}),
                                         arena_.floats({tokens, hidden})};
        ops.route(x, router, picks, d_weights, r[0], r[1]);
        ops.weigh(f, d, weights, 1.5f, r[2], r[3]);
        ops.weighted(f, d, weights, 1.5f, r[4]);
        ops.undispatch(rows, d, r[5]);
        return r;
      };
      const auto actual = run_on(ops()), expected = run_on(exact());
      for (std::size_t i = 0; i < actual.size(); ++i) {
        // The weight of a single pick is 1 whatever the gate says: nothing but roundings is left.
        if (k == 1 && i == 1)
          EXPECT_LE(largest(actual[i]), 1e-5) << on("d_gate of one pick");
        else
          expect_close(actual[i], expected[i], 2, on("result {} of {} picks", i, k));
      }
    }
}

TEST_P(GradientKernelTest, LoadBalance) {
  const std::int64_t experts = 5, tokens = 33, k = 2, hidden = 70;
  const Tensor x = arena_.random_bf16({tokens, hidden}), gate = arena_.random({experts, hidden});
  const Tensor picks = arena_.make(DType::kI32, {tokens, k}), weights = arena_.floats({tokens, k});
  for (const RouterScore score : {RouterScore::kSigmoid, RouterScore::kSoftmax})
    for (const bool is_trained : {true, false}) {
      const Router router{f32_matrix(gate), {}, score};
      reference_->route(x, router, false, picks, weights);
      const auto run_on = [&](GradientOps& ops) {
        const std::array<Tensor, 3> r = {arena_.floats({1}), zeros({tokens, hidden}),
                                         zeros({experts, hidden})};
        ops.balance(x, router, picks, 30, r[0], r[1], is_trained ? r[2] : Tensor());
        return r;
      };
      const auto actual = run_on(ops()), expected = run_on(exact());
      const char* names[] = {"loss", "d_x", "d_gate"};
      for (std::size_t i = 0; i < actual.size(); ++i)
        expect_close(actual[i], expected[i], 2,
                     on("{}, the gate {}", names[i], is_trained ? "trained" : "frozen"));
      EXPECT_NEAR(*actual[0].as<float>(), *expected[0].as<float>(), 1e-4) << on("loss");
    }
}

// Of the ops whose results may lie where something lay that they read.
TEST_P(GradientKernelTest, WritingOverWhatIsReadChangesNoBit) {
  const std::int64_t rows = 33, heads = 3, dim = 37, width = heads * dim;
  const Tensor x = arena_.random({rows, width}, 3), y = arena_.random({rows, width}, 3);
  const Tensor d_out = arena_.random({rows, width}), out = arena_.floats({rows, width});
  const auto expect_same_over = [&](const Tensor& read, const char* what, const auto& op) {
    const Tensor over = arena_.copy(read);
    op(read, out);
    op(over, over);
    expect_same(over, out, on("{}", what));
  };
  const HeadNorm norm{arena_.random({dim}), 1e-3f, arena_.random({rows, 18})};
  expect_same_over(d_out, "norm_rope", [&](const Tensor& d, const Tensor& d_x) {
    ops().norm_rope(x, norm, d, d_x, {});
  });
  const Tensor bias = arena_.random({width});
  expect_same_over(d_out, "gelu",
                   [&](const Tensor& d, const Tensor& d_x) { ops().gelu(x, bias, d, d_x); });
  expect_same_over(x, "dropout", [&](const Tensor& in, const Tensor& o) {
    ops().dropout(in, {0.3f, 5}, 2, o);
  });

  const Tensor d_gate = arena_.floats({rows, width}), d_up = arena_.floats({rows, width});
  const Tensor gate = arena_.copy(x), up = arena_.copy(y);
  ops().swiglu(x, y, {}, d_out, d_gate, d_up);
  ops().swiglu(gate, up, {}, d_out, gate, up);
  expect_same(gate, d_gate, on("swiglu, d_gate"));
  expect_same(up, d_up, on("swiglu, d_up"));

  const Tensor picks = arena_.make(DType::kI32, {rows, 1}), weights = arena_.random({rows, 1});
  for (std::int64_t t = 0; t < rows; ++t) *picks.row<std::int32_t>(t) = static_cast<int>(t % 4);
  const Dispatch d = make_dispatch(4, rows, 1);
  reference_->dispatch(picks, d);
  expect_same_over(x, "weighted", [&](const Tensor& f, const Tensor& o) {
    ops().weighted(f, d, weights, 1.5f, o);
  });

  for (const Format format : {Format::kBF16, Format::kF32}) {
    Linear layer{arena_.packed(*backend_, arena_.random_matrix(codec_of(format), 70, width))};
    const LowRank addend{arena_.random({3, width}), arena_.random({70, 3}), 0.5f};
    layer.addend = &addend;
    const Tensor d_y = arena_.random({rows, 70});
    std::vector<std::array<Tensor, 3>> d_weights;
    expect_same_over(x, "linear, d_x", [&](const Tensor& in, const Tensor& d_x) {
      d_weights.push_back({zeros({70, width}), zeros({3, width}), zeros({70, 3})});
      const auto& [d_w, d_a, d_b] = d_weights.back();
      const LinearGradient gradient[] = {{&layer, d_y, d_w, d_a, d_b}};
      ops().linear(in, gradient, d_x);
    });
    for (std::size_t i = 0; i < 3; ++i)
      expect_same(d_weights[1][i], d_weights[0][i], on("linear, result {}", i));
  }
}

INSTANTIATE_TEST_SUITE_P(Machines, GradientKernelTest, testing::ValuesIn(machines(false)),
                         machine_name);

}  // namespace
}  // namespace m3
