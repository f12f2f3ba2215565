// The worked examples of the specification, and small cases that can be checked by hand, on every
// backend. Their inputs are exact in bfloat16 or take part in float32 arithmetic only, unless a
// tolerance says otherwise.
#include "backend/op_testing.h"
#include "backend/op_testing_cache.h"

namespace m3 {
namespace {

using OpExamples = OpTest;
INSTANTIATE_TEST_SUITE_P(All, OpExamples, testing::ValuesIn(machines(true)), machine_name);

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

void expect_values(const Tensor& actual, const std::vector<double>& expected,
                   const std::string& what, double relative = 1e-6) {
  ASSERT_EQ(actual.elements(), std::ssize(expected)) << what;
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(actual.as<float>()[i], expected[i], relative * std::abs(expected[i]))
        << what << ", element " << i;
}

void expect_ids(const Tensor& actual, const std::vector<std::int32_t>& expected,
                const std::string& what) {
  const std::int32_t* ids = actual.as<std::int32_t>();
  EXPECT_EQ(std::vector<std::int32_t>(ids, ids + actual.elements()), expected) << what;
}

// Spec: text-model §9.1, before the rounding to bfloat16 that we do not do.
TEST_P(OpExamples, GemmaNorm) {
  const Tensor x = arena_.of<float>({1, 4}, {1, 2, 3, 4});
  const Tensor weight = arena_.of<float>({4}, {0, 0.5f, -0.5f, -1});
  backend_->rms_norm(x, weight, 1e-6f, x);
  backend_->synchronize();
  expect_values(x, {0.36514835, 1.09544504, 0.54772252, 0}, on("rms_norm"));

  const Tensor sum = arena_.of<float>({1, 2}, {256, 1});
  backend_->add(arena_.of<float>({1, 2}, {1, 1}), sum);
  backend_->rms_norm(sum, arena_.of<float>({2}, {0, 0}), 1e-6f, sum);
  backend_->synchronize();
  expect_values(sum, {1.4141707, 0.0110052198}, on("add, rms_norm"));
}

// Spec: text-model §9.2.
TEST_P(OpExamples, SwiGluTable) {
  const Tensor gate = arena_.of<float>({3, 3}, {1, 1, -1, 10, 2, 2, -10, -0.5f, 1.5f});
  const Tensor up = arena_.of<float>({3, 3}, {0, 1, 2, 0, 10, -10, 1, -1, 0.30078125f});
  backend_->swiglu(gate, up, {}, gate);
  backend_->synchronize();
  expect_values(gate,
                {0.84579577, 1.6915915, -0.46261270, 6.9999531, 15.485269, -11.613952,
                 -8.1159226e-7, 0, 1.8102481},
                on("swiglu"), 4e-6);
}

// Without a limit nothing is clamped; alpha and beta count.
TEST_P(OpExamples, SwiGluParameters) {
  const Tensor gate = arena_.of<float>({1, 2}, {20, 1}), up = arena_.of<float>({1, 2}, {-30, 2});
  backend_->swiglu(gate, up, {.alpha = 0.5f, .limit = 0, .beta = 3}, gate);
  backend_->synchronize();
  expect_values(gate, {20 / (1 + std::exp(-10.0)) * -27, 5 / (1 + std::exp(-0.5))}, on("swiglu"),
                4e-6);
}

// The router of §9.3: logits that a gate of one input column produces from x = 1.
class Router93 {
 public:
  Router93(Arena& arena, std::vector<float> logits, std::vector<float> bias) {
    const auto experts = std::ssize(logits);
    x = arena.of<float>({1, 1}, {1});
    router.gate = arena.encode(codec_of(Format::kF32), arena.of<float>({experts, 1}, logits));
    if (!bias.empty()) router.bias = arena.of<float>({experts}, bias);
  }
  Tensor x;
  Router router;
};

// Spec: text-model §9.3.
TEST_P(OpExamples, Router) {
  const std::vector<float> logits = {2, 1, 0, -1, 1, 0.5f};
  Router93 biased(arena_, logits, {-0.30f, 0, 0.25f, 0.50f, 0, 0});
  const Tensor experts = arena_.make(DType::kI32, {1, 3}), weights = arena_.floats({1, 3});
  backend_->route(biased.x, biased.router, false, experts, weights);
  backend_->synchronize();
  expect_ids(experts, {1, 2, 3}, on("route"));
  expect_values(weights, {0.48737239, 0.33333333, 0.17929428}, on("route"));

  Router93 unbiased(arena_, logits, {});
  backend_->route(unbiased.x, unbiased.router, false, experts, weights);
  backend_->synchronize();
  expect_ids(experts, {0, 1, 4}, on("route without bias"));

  // Given picks keep their places; only the weights are computed.
  const Tensor given = arena_.of<std::int32_t>({1, 2}, {2, 5});
  const Tensor given_weights = arena_.floats({1, 2});
  backend_->route(biased.x, biased.router, true, given, given_weights);
  backend_->synchronize();
  expect_ids(given, {2, 5}, on("route with given picks"));
  expect_values(given_weights, {0.5 / 1.12245933, 0.62245933 / 1.12245933}, on("route, given"));
}

TEST_P(OpExamples, SoftmaxRouter) {
  Router93 r(arena_, {std::log(1.0f), std::log(4.0f), std::log(2.0f), std::log(1.0f)}, {});
  r.router.score = RouterScore::kSoftmax;
  const Tensor experts = arena_.make(DType::kI32, {1, 2}), weights = arena_.floats({1, 2});
  backend_->route(r.x, r.router, false, experts, weights);
  backend_->synchronize();
  expect_ids(experts, {1, 2}, on("softmax route"));
  expect_values(weights, {2.0 / 3, 1.0 / 3}, on("softmax route"), 2e-6);
}

// A broken row gets k different experts and no NaN (spec: text-model §3.8.1, §10 number 27).
TEST_P(OpExamples, RouterOfBrokenRows) {
  const Tensor experts = arena_.make(DType::kI32, {1, 2}), weights = arena_.floats({1, 2});
  for (const RouterScore score : {RouterScore::kSigmoid, RouterScore::kSoftmax}) {
    Router93 r(arena_, {1, 2, 3, 4}, {0, 0.25f, 0, 0.5f});
    r.router.score = score;
    r.x.as<float>()[0] = kNan;
    backend_->route(r.x, r.router, false, experts, weights);
    backend_->synchronize();
    expect_ids(experts, {1, 3}, on("route of NaN"));
    expect_values(weights, {0, 0}, on("route of NaN"));
  }
  // Every choice lies below -1, and the best of them still wins.
  Router93 low(arena_, {0, 0, 0, 0}, {-9, -5, -7, -6});
  backend_->route(low.x, low.router, false, experts, weights);
  backend_->synchronize();
  expect_ids(experts, {1, 3}, on("route with low biases"));
  expect_values(weights, {0.5, 0.5}, on("route with low biases"));
}

// Spec: text-model §9.3, second part; the picks ascend by expert.
TEST_P(OpExamples, DispatchAndCombine) {
  const Tensor experts = arena_.of<std::int32_t>({2, 3}, {1, 2, 3, 0, 1, 3});
  const Dispatch d = make_dispatch(5, 2, 3);
  backend_->dispatch(experts, d);
  backend_->synchronize();
  expect_ids(d.offsets, {0, 1, 3, 4, 6, 6}, on("dispatch: offsets"));
  expect_ids(d.rows, {1, 0, 1, 0, 0, 1}, on("dispatch: rows"));
  expect_ids(d.places, {1, 3, 4, 0, 2, 5}, on("dispatch: places"));

  // Dispatched rows hold what the experts gave: row 1 is E1, 3 is E2 and 4 is E3 of token 0.
  const Tensor y = arena_.of<float>({6, 2}, {8, 16, 1, 0, 4, 0, 0, 1, 2, -1, 0, 2});
  const Tensor weights =
      arena_.of<float>({2, 3}, {0.48737239f, 0.33333333f, 0.17929428f, 0.5f, 0.25f, 0.25f});
  const Tensor out = arena_.floats({2, 2});
  const Tensor shared = arena_.of<float>({2, 2}, {0.25f, -0.5f, 1, 2});
  backend_->combine(y, d, weights, 2, shared, out);
  backend_->synchronize();
  expect_values(out, {1.94192190, -0.19192190, 11, 19}, on("combine"));
  backend_->combine(y, d, weights, 2, {}, out);
  backend_->combine(y, d, weights, 2, shared, shared);  // in place
  backend_->synchronize();
  expect_values(out, {1.69192190, 0.30807810, 10, 17}, on("combine without shared"));
  expect_values(shared, {1.94192190, -0.19192190, 11, 19}, on("combine in place"));
}

// Every value byte with scales for which the product is exact in bfloat16 (spec: text-model §2.4,
// §9.4), through linear and embed.
TEST_P(OpExamples, Mxfp8IsExact) {
  const Codec& codec = codec_of(Format::kMxfp8);
  const Tensor one = arena_.of<float>({1, 1}, {1});
  for (const int scale : {19, 64, 118, 120, 127, 130, 200, 246}) {
    Matrix w{&codec, arena_.make(DType::kF8E4M3, {256, 1}), arena_.make(DType::kU8, {256, 1}), 256,
             1};
    const Tensor expected = arena_.floats({1, 256}), ids = arena_.make(DType::kI32, {256});
    for (int byte = 0; byte < 256; ++byte) {
      w.values.as<std::uint8_t>()[byte] = static_cast<std::uint8_t>(byte);
      w.scales.as<std::uint8_t>()[byte] = static_cast<std::uint8_t>(scale);
      expected.as<float>()[byte] =
          std::ldexp(e4m3_to_float(static_cast<std::uint8_t>(byte)), scale - 127);
      ids.as<std::int32_t>()[byte] = byte;
    }
    const auto exact = [](std::int64_t) { return 0.0; };
    expect_near(run_linear(*backend_, one, {w}), expected, on("linear mxfp8, scale {}", scale),
                exact);
    const Tensor embedded = arena_.floats({256, 1});
    backend_->embed(w, ids, embedded);
    backend_->synchronize();
    expect_near(embedded, expected, on("embed mxfp8, scale {}", scale), exact);
  }
}

// The rows of §9.4, each a block of 32 columns of one weight row.
TEST_P(OpExamples, Mxfp8Blocks) {
  const std::vector<std::uint8_t> bytes = {0x38, 0x3C, 0xFE, 0x01, 0x49};
  const std::vector<std::uint8_t> scales = {127, 120, 130, 118, 121};
  const std::vector<double> expected = {1, 0.01171875, -3584, std::ldexp(1.0, -18), 0.0703125};
  Matrix w{&codec_of(Format::kMxfp8), arena_.make(DType::kF8E4M3, {1, 160}),
           arena_.of({1, 5}, scales), 1, 160};
  const Tensor x = arena_.floats({5, 160});
  for (std::int64_t block = 0; block < 5; ++block) {
    const std::int64_t column = block * 32 + block * 7;  // not always the first of its block
    w.values.as<std::uint8_t>()[column] = bytes[static_cast<std::size_t>(block)];
    x.row<float>(block)[column] = 1;
  }
  expect_values(run_linear(*backend_, x, {w}), expected, on("linear mxfp8"), 0);
}

// y = W x + scale * B (A x), with W = [1 2; 3 4; 5 6], A = [1 1], B = [1; 0; -2], scale 0.5.
TEST_P(OpExamples, LowRankAddend) {
  const LowRank addend{arena_.of<float>({1, 2}, {1, 1}), arena_.of<float>({3, 1}, {1, 0, -2}),
                       0.5f};
  const Tensor w = arena_.of<float>({3, 2}, {1, 2, 3, 4, 5, 6});
  const Linear linear{arena_.encode(codec_of(Format::kF32), w), &addend};
  const Tensor x = arena_.of<float>({2, 2}, {1, 1, 2, -4});
  expect_values(run_linear(*backend_, x, linear), {4, 7, 9, -7, -10, -12}, on("linear, low rank"));
}

// Spec: text-model §9.6. The norm before the rotation is undone by its weight.
TEST_P(OpExamples, PartialRope) {
  const Tensor rotations = arena_.floats({1, 4});
  backend_->rope_table(arena_.of<std::int64_t>({1}, {3}), {arena_.of<float>({2}, {1, 0.1f}), 1},
                       rotations);
  backend_->synchronize();
  expect_values(rotations, {-0.98999250, 0.95533649, 0.14112001, 0.29552021}, on("rope_table"));

  const Tensor x = arena_.of<float>({1, 8}, {1, 2, 3, 4, 5, 6, 7, 8});
  const auto gain = static_cast<float>(std::sqrt(204.0 / 8));
  const Tensor weight = arena_.of<float>({8}, std::vector<float>(8, gain - 1));
  backend_->norm_rope(x, {weight, 0, rotations}, x);
  backend_->synchronize();
  expect_values(x, {-1.41335252, 0.72859215, -2.82885748, 4.41238637, 5, 6, 7, 8}, on("norm_rope"),
                2e-6);
}

// The angle is rounded to float32 even where that is far from the exact product.
TEST_P(OpExamples, RopeOfFarPositions) {
  const std::vector<float> inv_freq = {1, 0.61752876f, 4.4721360e-4f, 3.2387156e-7f};
  const std::vector<std::int64_t> positions = {0, 1, 4097, 524287, 1048575};
  const float scale = 1.0693147f;  // YaRN's m for a factor of 2
  const Tensor table = arena_.floats({5, 8});
  backend_->rope_table(arena_.of({5}, positions), {arena_.of({4}, inv_freq), scale}, table);
  backend_->synchronize();
  for (std::size_t t = 0; t < positions.size(); ++t) {
    for (std::size_t i = 0; i < inv_freq.size(); ++i) {
      const float angle = static_cast<float>(positions[t]) * inv_freq[i];
      const float* row = table.row<float>(static_cast<std::int64_t>(t));
      const std::string what = on("rope_table, position {}, frequency {}", positions[t], i);
      EXPECT_NEAR(row[i], scale * std::cos(double{angle}), 3e-7) << what;
      EXPECT_NEAR(row[i + 4], scale * std::sin(double{angle}), 3e-7) << what;
    }
  }
}

// The token scores of §9.7, at the first component of keys that are zero otherwise.
TestCache cache_of_scores(const std::vector<float>& scores, DType dtype = DType::kBF16) {
  TestCache cache({.dtype = dtype, .page_tokens = 4, .head_dim = 8}, {std::ssize(scores)});
  for (std::size_t slot = 0; slot < scores.size(); ++slot)
    for (std::int64_t i = 0; i < 8; ++i)
      cache.set_index_key(0, static_cast<std::int64_t>(slot), i, i == 0 ? scores[slot] : 0);
  return cache;
}

struct SelectionCase {
  Selection selection;
  std::int64_t slot;
  std::vector<std::int32_t> blocks;
};

// Spec: text-model §9.7.
TEST_P(OpExamples, BlockSelectionTable) {
  const std::vector<float> scores = {.1f, .9f, -.2f, 0,    .2f,  .1f,  0,    -.3f, .3f,
                                     .9f, .9f, .2f,  -.1f, -.4f, -.2f, -.9f, .05f, -.6f};
  const ScoreType lse = ScoreType::kLse;
  const std::vector<SelectionCase> cases = {
      {{.topk = 3}, 17, {0, 2, 4}},
      {{.topk = 2}, 17, {0, 4}},
      {{.topk = 3, .local_blocks = 2}, 17, {0, 3, 4}},
      {{.topk = 2, .local_blocks = 2}, 17, {3, 4}},
      {{.topk = 2, .init_blocks = 1}, 17, {0, 4}},
      {{.topk = 1, .init_blocks = 1}, 17, {0}},
      {{.topk = 8}, 17, {0, 1, 2, 3, 4, -1, -1, -1}},
      {{.topk = 3, .local_blocks = 0}, 17, {0, 1, 2}},
      {{.topk = 3}, 5, {0, 1, -1}},
      {{.topk = 3}, 0, {0, -1, -1}},
      // lse = [1.68, 1.40, 2.01, 1.03, .47] breaks the tie of 0 and 2.
      {{.topk = 2, .score_type = lse}, 17, {2, 4}},
      {{.topk = 2, .local_blocks = 0, .score_type = lse}, 17, {0, 2}},
      {{.topk = 2, .init_blocks = 9, .score_type = lse}, 17, {0, 1}},
      // The row at slot 8 sees .3 alone of block 2, the row at slot 9 also the .9.
      {{.topk = 1, .local_blocks = 0}, 8, {0}},
      {{.topk = 2, .local_blocks = 0}, 9, {0, 2}},
  };
  for (const DType dtype : kCacheDTypes) {
    TestCache cache = cache_of_scores(scores, dtype);
    const Tensor q = arena_.of<float>({1, 8}, {1, 0, 0, 0, 0, 0, 0, 0});
    for (const SelectionCase& c : cases)
      expect_ids(
          run_select(*backend_, q, cache.rows(arena_, {{0, c.slot}}), cache.index, c.selection),
          c.blocks,
          on("select_blocks, {} cache, topk {}, init {}, local {}, slot {}", dtype_name(dtype),
             c.selection.topk, c.selection.init_blocks, c.selection.local_blocks, c.slot));
  }
}

// The k best blocks of a row by their maxima, its own first: ascending, then -1 (spec: text-model
// §3.5).
std::vector<std::int32_t> best_blocks(const TestCache& cache, const float* q, std::int64_t slot,
                                      std::int64_t topk) {
  const std::int64_t tokens = cache.index.page_tokens, own = slot / tokens;
  std::vector<std::pair<double, std::int32_t>> ranked;
  for (std::int64_t b = 0; b <= own; ++b) {
    double best = b == own ? INFINITY : -INFINITY;
    for (std::int64_t t = b * tokens; t < std::min((b + 1) * tokens, slot + 1); ++t) {
      double score = 0;
      for (std::int64_t i = 0; i < cache.index.dim; ++i)
        score += double{q[i]} * cache.index_key(0, t, i);
      best = std::max(best, score);
    }
    ranked.emplace_back(-best, static_cast<std::int32_t>(b));
  }
  std::ranges::sort(ranked);
  std::vector<std::int32_t> blocks;
  for (std::int64_t i = 0; i < std::min(topk, own + 1); ++i)
    blocks.push_back(ranked[static_cast<std::size_t>(i)].second);
  std::ranges::sort(blocks);
  blocks.resize(static_cast<std::size_t>(topk), -1);
  return blocks;
}

// Spec: training §14, row 2.
TEST_P(OpExamples, SelectionIsBruteForce) {
  const std::int64_t count = 16, heads = 2, dim = 8;
  std::vector<std::pair<std::int32_t, std::int64_t>> places;
  for (std::int64_t slot = 0; slot < count; ++slot) places.emplace_back(0, slot);
  const Tensor q = arena_.random_bf16({count, heads * dim});
  for (const auto& [tokens, topk] : {std::pair{4, 2}, {4, 3}, {8, 1}, {4, 1}, {4, 16}, {8, 16}}) {
    const TestCache cache({.page_tokens = tokens, .kv_heads = 2, .head_dim = dim}, {count});
    const Tensor blocks =
        run_select(*backend_, q, cache.rows(arena_, places), cache.index, {.topk = topk});
    for (std::int64_t slot = 0; slot < count; ++slot)
      for (std::int64_t h = 0; h < heads; ++h) {
        const std::int32_t* list = blocks.row<std::int32_t>(slot) + h * topk;
        const std::vector<std::int32_t> listed(list, list + topk);
        const std::string what =
            on("blocks of {}, topk {}, slot {}, head {}", tokens, topk, slot, h);
        EXPECT_EQ(listed, best_blocks(cache, q.row<float>(slot) + h * dim, slot, topk)) << what;
        const auto own = static_cast<std::int32_t>(slot / tokens);
        EXPECT_EQ(std::ranges::count(listed, own), 1) << what;
        for (std::int32_t b = 0; topk == 16 && b <= own; ++b)
          EXPECT_EQ(listed[static_cast<std::size_t>(b)], b) << what;
      }
  }
}

// The scale changes the order under lse: blocks [.9, -9, -9, -9] and [.5, .5, .5, .5] have
// lse .9 and 1.89 at scale 1, but 9 and 6.39 at scale 10.
TEST_P(OpExamples, BlockSelectionScale) {
  TestCache cache = cache_of_scores({.9f, -9, -9, -9, .5f, .5f, .5f, .5f, 0});
  const Tensor q = arena_.of<float>({1, 8}, {1, 0, 0, 0, 0, 0, 0, 0});
  const Rows rows = cache.rows(arena_, {{0, 8}});
  for (const auto& [scale, best] : {std::pair{1.0f, 1}, {10.0f, 0}}) {
    const Selection s{.topk = 2, .score_type = ScoreType::kLse, .scale = scale};
    expect_ids(run_select(*backend_, q, rows, cache.index, s), {best, 2},
               on("select_blocks, lse, scale {}", scale));
  }
}

// Index heads choose by themselves (spec: text-model §9.7, shared-selection bug).
TEST_P(OpExamples, BlockSelectionPerHead) {
  TestCache cache = cache_of_scores({.9f, 0, 0, 0, -.5f, 0, 0, 0, 0});
  const Tensor q = arena_.of<float>({1, 16}, {1, 0, 0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0});
  const Rows rows = cache.rows(arena_, {{0, 8}});
  expect_ids(run_select(*backend_, q, rows, cache.index, {.topk = 2}), {0, 2, 1, 2},
             on("select_blocks, two heads"));
}

// A block with a NaN score ranks behind every number but minus infinity (spec: text-model §3.5.6).
TEST_P(OpExamples, BlockSelectionOfNan) {
  for (const ScoreType type : {ScoreType::kMax, ScoreType::kLse}) {
    TestCache cache = cache_of_scores({.9f, 5, 5, 5, .5f, 0, 0, 0, -8, -8, -8, -8, 0, 0, 0, 0});
    cache.set_index_key(0, 1, 0, kNan);
    const Tensor q = arena_.of<float>({1, 8}, {1, 0, 0, 0, 0, 0, 0, 0});
    const Rows rows = cache.rows(arena_, {{0, 15}});
    expect_ids(run_select(*backend_, q, rows, cache.index, {.topk = 3, .score_type = type}),
               {1, 2, 3}, on("select_blocks with a NaN key"));
    q.as<float>()[0] = kNan;
    expect_ids(run_select(*backend_, q, rows, cache.index, {.topk = 3, .score_type = type}),
               {0, 1, 3}, on("select_blocks with a NaN query"));
  }
}

// Weights of values of at most `largest`, and their sum, are rounded to bfloat16; not by reference.
double mix_error(bool is_reference, double largest) {
  return 3e-6 + (is_reference ? 0 : 2 * kBf16 * largest);
}

// Spec: text-model §9.8, widened with zeros to a head of 8.
TEST_P(OpExamples, SparseAttention) {
  for (const DType dtype : kCacheDTypes) {
    TestCache cache({.dtype = dtype, .page_tokens = 2, .head_dim = 8}, {4});
    const float keys[4][2] = {{2, 0}, {0, 1}, {1, 1}, {3, 0}};
    const float values[4][2] = {{1, 0}, {0, 1}, {1, 1}, {2, 2}};
    for (std::int64_t slot = 0; slot < 4; ++slot)
      for (std::int64_t i = 0; i < 8; ++i) {
        cache.set_key(0, slot, 0, i, i < 2 ? keys[slot][i] : 0);
        cache.set_value(0, slot, 0, i, i < 2 ? values[slot][i] : 0);
      }
    const Tensor q = arena_.of<float>({1, 8}, {1, 0, 0, 0, 0, 0, 0, 0});
    const Rows rows = cache.rows(arena_, {{0, 3}});
    const auto scale = static_cast<float>(1 / std::sqrt(2.0));
    const Tensor dense = run_attention(*backend_, q, rows, cache.kv, scale, nullptr);
    const double error = mix_error(is_reference(), 2);
    expect_values(dense, {1.47419123, 1.27312246, 0, 0, 0, 0, 0, 0}, on("attention"), error);

    cache.poison_block(0, 0);  // unlisted pages are not read
    const Tensor blocks = arena_.of<std::int32_t>({1, 1, 3}, {1, -1, -1});
    const Tensor sparse = run_attention(*backend_, q, rows, cache.kv, scale, &blocks);
    expect_values(sparse, {1.80442968, 1.80442968, 0, 0, 0, 0, 0, 0}, on("sparse attention"),
                  error);

    const Tensor none = arena_.of<std::int32_t>({1, 1, 2}, {-1, -1});
    expect_values(run_attention(*backend_, q, rows, cache.kv, scale, &none),
                  std::vector<double>(8, 0.0), on("attention to no block"));
  }
}

// The formula of attention, written a second time and without pages.
TEST_P(OpExamples, AttentionFormula) {
  const std::int64_t dim = 32, kv_heads = 2, group = 3, heads = kv_heads * group;
  TestCache cache({.page_tokens = 4, .kv_heads = kv_heads, .head_dim = dim}, {9, 30});
  const std::vector<std::pair<std::int32_t, std::int64_t>> places = {{1, 29}, {0, 0}, {1, 4}};
  const Tensor q = arena_.random_bf16({3, heads * dim});
  const Tensor out =
      run_attention(*backend_, q, cache.rows(arena_, places), cache.kv, 0.25f, nullptr);
  for (std::int64_t row = 0; row < 3; ++row) {
    const auto [sequence, slot] = places[static_cast<std::size_t>(row)];
    for (std::int64_t h = 0; h < heads; ++h) {
      std::vector<double> sums(static_cast<std::size_t>(dim), 0.0);
      double total = 0;
      for (std::int64_t t = 0; t <= slot; ++t) {
        double score = 0;
        for (std::int64_t i = 0; i < dim; ++i)
          score += q.row<float>(row)[h * dim + i] * cache.key(sequence, t, h / group, i);
        total += std::exp(0.25 * score);
        for (std::size_t i = 0; i < sums.size(); ++i)
          sums[i] += std::exp(0.25 * score) *
                     cache.value(sequence, t, h / group, static_cast<std::int64_t>(i));
      }
      for (std::size_t i = 0; i < sums.size(); ++i)
        EXPECT_NEAR(out.row<float>(row)[h * dim + static_cast<std::int64_t>(i)], sums[i] / total,
                    mix_error(is_reference(), 1))
            << on("attention, row {}, head {}, element {}", row, h, i);
    }
  }
}

// The formula of linear, written a second time.
TEST_P(OpExamples, LinearFormula) {
  const Tensor x = arena_.random_bf16({3, 100}), w = arena_.random_bf16({17, 100});
  const Tensor out = run_linear(*backend_, x, {arena_.encode(codec_of(Format::kBF16), w)});
  for (std::int64_t row = 0; row < 3; ++row)
    for (std::int64_t n = 0; n < 17; ++n) {
      double sum = 0;
      for (std::int64_t k = 0; k < 100; ++k) sum += x.row<float>(row)[k] * w.row<float>(n)[k];
      EXPECT_NEAR(out.row<float>(row)[n], sum, 1e-5) << on("linear, row {}, output {}", row, n);
    }
}

}  // namespace
}  // namespace m3
