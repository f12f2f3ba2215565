// The promises of bits, on every backend and instruction set: what a row gets does not depend on
// the other rows of a call, on how sequences are laid out in pages, on what lies beyond its slot,
// nor on the number of threads.
#include "backend/op_testing.h"
#include "backend/op_testing_cache.h"

namespace m3 {
namespace {

using OpPromises = OpTest;
INSTANTIATE_TEST_SUITE_P(All, OpPromises, testing::ValuesIn(machines(true)), machine_name);

// A random weight as stored, and where the backend packs such weights, packed.
std::vector<Matrix> both_layouts(Arena& arena, Backend& backend, const Codec& codec,
                                 std::int64_t outputs, std::int64_t cols) {
  std::vector<Matrix> layouts{arena.random_matrix(codec, outputs, cols)};
  const Matrix packed = arena.packed(backend, layouts[0]);
  if (packed.packed != nullptr) layouts.push_back(packed);
  return layouts;
}

constexpr std::int64_t kWidths[] = {1, 7, 14, 31, 32, 33, 46, 100, 257, 2050};

TEST_P(OpPromises, LinearOfARowAlone) {
  for (const Codec* codec : codecs()) {
    for (const std::int64_t cols : kWidths) {
      if (!fits(*codec, cols)) continue;
      const std::int64_t outputs = 21;
      const LowRank addend{arena_.random({3, cols}), arena_.random({outputs, 3}), 0.5f};
      for (const Matrix& weight : both_layouts(arena_, *backend_, *codec, outputs, cols)) {
        const Linear linear{weight, &addend};
        const Tensor x = arena_.random({33, cols});
        const Tensor together = run_linear(*backend_, x, linear);
        for (const auto& [begin, end] : {std::pair{0, 1}, {32, 33}, {13, 14}, {5, 12}, {0, 32}})
          expect_same(run_linear(*backend_, x.rows(begin, end), linear), together.rows(begin, end),
                      on("linear {}, K {}, rows [{}, {}) of 33", codec->name, cols, begin, end));
      }
    }
  }
}

// Several weights in one call give what they give one by one, and so do parts of a weight.
TEST_P(OpPromises, LinearOfSeveralWeights) {
  for (const Codec* codec : codecs()) {
    const std::int64_t cols = 130;
    const Tensor x = arena_.random({6, cols});
    std::vector<Linear> weights;
    for (const std::int64_t outputs : {40, 1, 17})
      weights.push_back({arena_.random_matrix(*codec, outputs, cols)});
    std::vector<LinearOutput> outputs;
    for (const Linear& w : weights) outputs.push_back({&w, arena_.floats({6, w.weight.rows})});
    backend_->linear(x, outputs);
    backend_->synchronize();
    for (const LinearOutput& o : outputs)
      expect_same(
          run_linear(*backend_, x, *o.linear), o.out,
          on("linear {}, {} outputs in a call of three", codec->name, o.linear->weight.rows));
    const Linear last{matrix_rows(weights[0].weight, 39, 40)};
    const Tensor alone = run_linear(*backend_, x, last);
    for (std::int64_t row = 0; row < 6; ++row)
      EXPECT_EQ(alone.as<float>()[row], outputs[0].out.row<float>(row)[39])
          << on("linear {}, one output of 40, row {}", codec->name, row);
  }
}

// A row of grouped_linear has the bits that linear gives with its expert's weight.
TEST_P(OpPromises, GroupedLinearIsLinear) {
  for (const Codec* codec : codecs()) {
    for (const std::int64_t cols : kWidths) {
      if (!fits(*codec, cols)) continue;
      const std::int64_t tokens = 9, k = 2, count = 4, outputs = 19;
      std::vector<Linear> experts;
      for (std::int64_t e = 0; e < count; ++e)
        experts.push_back({both_layouts(arena_, *backend_, *codec, outputs, cols).back()});
      const LowRank addend{arena_.random({3, cols}), arena_.random({outputs, 3}), 0.5f};
      experts[1].addend = &addend;  // a fine-tuned expert among others
      const Tensor picks = arena_.make(DType::kI32, {tokens, k});
      for (std::int64_t i = 0; i < tokens * k; ++i)  // expert 0 gets many rows, expert 3 few
        picks.as<std::int32_t>()[i] = static_cast<std::int32_t>(i % 2 == 0 ? 0 : 1 + i % 5 / 2);
      const Dispatch d = make_dispatch(count, tokens, k);
      backend_->dispatch(picks, d);
      backend_->synchronize();
      for (const bool gather : {true, false}) {
        const Tensor x = arena_.random({gather ? tokens : tokens * k, cols});
        const Tensor out = arena_.floats({tokens * k, outputs});
        const GroupedOutput output{experts, out};
        backend_->grouped_linear(x, d, gather, {&output, 1}, {});
        backend_->synchronize();
        for (std::int64_t i = 0; i < tokens * k; ++i) {
          const std::int64_t row = d.places.as<std::int32_t>()[i];
          const std::int64_t input = gather ? i / k : row;
          const auto expert = static_cast<std::size_t>(picks.as<std::int32_t>()[i]);
          expect_same(
              out.rows(row, row + 1),
              run_linear(*backend_, x.rows(input, input + 1), experts[expert]),
              on("grouped_linear {}, K {}, gather {}, pick {}", codec->name, cols, gather, i));
        }
      }
    }
  }
}

// Rows of several adapters in one call: each has the bits of the adapter that it names, alone.
TEST_P(OpPromises, RowsThatNameAdapters) {
  const std::int64_t rows = 21, cols = 96, inner = 70, named = 3;
  const SwiGlu params{.alpha = 1.5f, .limit = 0.75f, .beta = 0.5f};
  const Tensor adapters = arena_.make(DType::kI32, {rows});
  for (std::int64_t row = 0; row < rows; ++row)
    adapters.as<std::int32_t>()[row] = static_cast<std::int32_t>(row * row % 4) - 1;
  // Adapter 1 has none of the gate.
  std::vector<LowRank> of_gate, of_up;
  for (const std::int64_t rank : {3, 5, 16}) {
    const Tensor a = arena_.random({rank, cols});
    of_gate.push_back({a, arena_.random({inner, rank}), 0.5f});
    of_up.push_back({a, arena_.random({inner, rank}), 2});
  }
  const std::vector<const LowRank*> gate_addends = {&of_gate[0], nullptr, &of_gate[2]};
  const std::vector<const LowRank*> up_addends = {&of_up[0], &of_up[1], &of_up[2]};
  for (const Codec* codec : codecs()) {
    const auto weight = [&] { return both_layouts(arena_, *backend_, *codec, inner, cols).back(); };
    const auto alone = [&](const Tensor& x, Linear gate, Linear up, std::int32_t adapter) {
      for (Linear* linear : {&gate, &up}) {
        if (adapter >= 0) linear->addend = linear->addends[static_cast<std::size_t>(adapter)];
        linear->addends = {};
      }
      const Tensor out = run_linear(*backend_, x, gate);
      backend_->swiglu(out, run_linear(*backend_, x, up), params, out);
      backend_->synchronize();
      return out;
    };
    const Linear gate{weight(), nullptr, gate_addends}, up{weight(), nullptr, up_addends};
    const Tensor x = arena_.random({rows, cols}), out = arena_.floats({rows, inner});
    const LinearOutput outputs[] = {{&gate, out, &params}, {&up, arena_.floats({rows, inner})}};
    backend_->linear(x, outputs, adapters);
    backend_->synchronize();
    for (std::int64_t row = 0; row < rows; ++row)
      expect_same(out.rows(row, row + 1),
                  alone(x.rows(row, row + 1), gate, up, adapters.as<std::int32_t>()[row]),
                  on("{}, row {} of adapters", codec->name, row));
    backend_->linear(x, outputs);
    backend_->synchronize();
    expect_same(out, alone(x, gate, up, -1), on("{}, nobody names an adapter", codec->name));

    // Experts, of which the second is not adapted, and a shared one beside them.
    const std::vector<Linear> gates = {gate, {weight()}, {weight(), nullptr, gate_addends}};
    const std::vector<Linear> ups = {up, {weight()}, {weight(), nullptr, up_addends}};
    const std::int64_t k = 2;
    const Tensor picks = arena_.make(DType::kI32, {rows, k});
    for (std::int64_t i = 0; i < rows * k; ++i)
      picks.as<std::int32_t>()[i] = static_cast<std::int32_t>(i % 2 == 0 ? 0 : 1 + i % 3 / 2);
    const Dispatch d = make_dispatch(named, rows, k);
    backend_->dispatch(picks, d);
    backend_->synchronize();
    for (const bool gather : {true, false}) {
      const Tensor in = arena_.random({gather ? rows : rows * k, cols});
      const Tensor y = arena_.floats({rows * k, inner}), beside = arena_.floats({rows, inner});
      const GroupedOutput grouped[] = {{gates, y, &params},
                                       {ups, arena_.floats({rows * k, inner})}};
      const LinearOutput shared[] = {{&gate, beside, &params}, {&up, arena_.floats({rows, inner})}};
      backend_->grouped_linear(in, d, gather, grouped, {x, shared}, adapters);
      backend_->synchronize();
      for (std::int64_t i = 0; i < rows * k; ++i) {
        const std::int64_t row = d.places.as<std::int32_t>()[i], from = gather ? i / k : row;
        const auto e = static_cast<std::size_t>(picks.as<std::int32_t>()[i]);
        expect_same(y.rows(row, row + 1),
                    alone(in.rows(from, from + 1), gates[e], ups[e],
                          e == 1 ? -1 : adapters.as<std::int32_t>()[i / k]),
                    on("{}, pick {} of adapters, gather {}", codec->name, i, gather));
      }
      for (std::int64_t row = 0; row < rows; ++row)
        expect_same(beside.rows(row, row + 1),
                    alone(x.rows(row, row + 1), gate, up, adapters.as<std::int32_t>()[row]),
                    on("{}, row {} beside experts of adapters", codec->name, row));
    }
  }
}

// A gate has the bits of swiglu() after linear(), whether its up is stored alike, packed alike or
// fine-tuned; experts and what runs beside them have the bits that they have alone.
TEST_P(OpPromises, GatesAndWhatRunsBesideChangeNoBit) {
  const std::int64_t tokens = 9, k = 2, count = 3, inner = 83, cols = 256;
  const SwiGlu params{.alpha = 1.5f, .limit = 0.75f, .beta = 0.5f};
  const LowRank addend{arena_.random({3, cols}), arena_.random({inner, 3}), 0.5f};
  const auto separate = [&](const Tensor& x, const Linear& gate, const Linear& up) {
    const Tensor out = run_linear(*backend_, x, gate);
    backend_->swiglu(out, run_linear(*backend_, x, up), params, out);
    backend_->synchronize();
    return out;
  };
  for (const Codec* codec : codecs()) {
    const auto weight = [&] { return both_layouts(arena_, *backend_, *codec, inner, cols); };
    const Tensor x = arena_.random({tokens, cols});
    for (const Linear& gate : {Linear{weight().front()}, Linear{weight().back()}})
      for (const LowRank* tuned : {static_cast<const LowRank*>(nullptr), &addend}) {
        const Linear up{weight().back(), tuned};
        const Tensor out = arena_.floats({tokens, inner}), room = arena_.floats({tokens, inner});
        const Tensor second = arena_.floats({tokens, inner});
        const LinearOutput outputs[] = {{&gate, out, &params}, {&up, room}};
        backend_->linear(x, outputs);
        backend_->synchronize();
        const std::string what = on("{}, gate packed {}, up tuned {}", codec->name,
                                    gate.weight.packed != nullptr, tuned != nullptr);
        expect_same(out, separate(x, gate, up), what);
        // Training wants to see the factors, too.
        const Tensor product = arena_.floats({tokens, inner});
        const LinearOutput kept[] = {{&gate, room, &params, product}, {&up, second}};
        backend_->linear(x, kept);
        backend_->synchronize();
        expect_same(product, out, what + ", product apart");
        expect_same(room, run_linear(*backend_, x, gate), what + ", gate kept");
        expect_same(second, run_linear(*backend_, x, up), what + ", up kept");
      }

    std::vector<Linear> gates, ups;
    for (std::int64_t e = 0; e < count; ++e) {
      gates.push_back({weight().back()});
      ups.push_back({weight().back(), e == 2 ? &addend : nullptr});
    }
    const Tensor picks = arena_.make(DType::kI32, {tokens, k});
    for (std::int64_t i = 0; i < tokens * k; ++i)
      picks.as<std::int32_t>()[i] = static_cast<std::int32_t>(i % 2 == 0 ? 0 : 1 + i % 5 / 3);
    const Dispatch d = make_dispatch(count, tokens, k);
    backend_->dispatch(picks, d);
    const Tensor out = arena_.floats({tokens * k, inner}),
                 room = arena_.floats({tokens * k, inner});
    const Tensor y = arena_.random({5, cols}), beside = arena_.floats({5, inner});
    const GroupedOutput grouped[] = {{gates, out, &params}, {ups, room}};
    const LinearOutput shared[] = {{&gates[0], beside, &params},
                                   {&ups[2], arena_.floats({5, inner})}};
    backend_->grouped_linear(x, d, true, grouped, {y, shared});
    backend_->synchronize();
    expect_same(beside, separate(y, gates[0], ups[2]), on("{}, beside", codec->name));
    for (std::int64_t i = 0; i < tokens * k; ++i) {
      const std::int64_t row = d.places.as<std::int32_t>()[i];
      const auto expert = static_cast<std::size_t>(picks.as<std::int32_t>()[i]);
      expect_same(out.rows(row, row + 1),
                  separate(x.rows(i / k, i / k + 1), gates[expert], ups[expert]),
                  on("{}, expert {}, pick {}", codec->name, expert, i));
    }
  }
}

// The row-wise ops: a slice of the rows gives a slice of the result.
TEST_P(OpPromises, RowwiseOpsOfARowAlone) {
  for (const std::int64_t dim : {8, 24, 32, 128}) {
    const std::int64_t rows = 9, heads = 3, width = heads * dim;
    const Tensor x = arena_.random({rows, width}), y = arena_.random({rows, width});
    const Tensor weight = arena_.random({width}), rotations = arena_.random({rows, dim / 2});
    const HeadNorm norm{arena_.random({dim}), 1e-6f, rotations};
    const Router router{arena_.random_matrix(codec_of(Format::kF32), 7, width), arena_.random({7})};
    struct Results {
      Tensor norm, norm_rope, swiglu, experts, weights;
    };
    const auto run = [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t n = end - begin;
      const Tensor part = x.rows(begin, end);
      Results r{arena_.floats({n, width}), arena_.floats({n, width}), arena_.floats({n, width}),
                arena_.make(DType::kI32, {n, 2}), arena_.floats({n, 2})};
      backend_->rms_norm(part, weight, 1e-6f, r.norm);
      backend_->norm_rope(part, {norm.weight, norm.eps, rotations.rows(begin, end)}, r.norm_rope);
      backend_->swiglu(part, y.rows(begin, end), {}, r.swiglu);
      backend_->route(part, router, false, r.experts, r.weights);
      backend_->synchronize();
      return r;
    };
    const Results all = run(0, rows);
    for (const auto& [begin, end] : {std::pair{0, 1}, {4, 5}, {8, 9}, {2, 7}}) {
      const Results part = run(begin, end);
      const std::string what = on(", dim {}, rows [{}, {})", dim, begin, end);
      expect_same(part.norm, all.norm.rows(begin, end), "rms_norm" + what);
      expect_same(part.norm_rope, all.norm_rope.rows(begin, end), "norm_rope" + what);
      expect_same(part.swiglu, all.swiglu.rows(begin, end), "swiglu" + what);
      expect_same(part.experts, all.experts.rows(begin, end), "route" + what);
      expect_same(part.weights, all.weights.rows(begin, end), "route weights" + what);
    }
  }
}

struct CacheCase {
  TestCache::Shape shape;
  std::int64_t group;  // query heads of a K/V head
};

std::vector<CacheCase> cache_cases() {
  std::vector<CacheCase> cases;
  for (const DType dtype : kCacheDTypes) {
    cases.push_back({{dtype, 4, 3, 8}, 1});
    cases.push_back({{dtype, 16, 2, 24}, 3});
    cases.push_back({{dtype, 4, 4, 32}, 2});
    cases.push_back({{dtype, 128, 1, 128}, 16});
  }
  return cases;
}

std::string describe(const CacheCase& c) {
  return fmt::format("{} cache, page {}, {} K/V heads of {}, {} heads each",
                     dtype_name(c.shape.dtype), c.shape.page_tokens, c.shape.kv_heads,
                     c.shape.head_dim, c.group);
}

// Dense attention, selection and the attention that follows the selection, at some rows.
struct Attended {
  Tensor dense, blocks, sparse;
};

class AttentionPromises : public OpTest {
 protected:
  Attended attend(Backend& backend, const CacheCase& c, const TestCache& cache, const Tensor& q,
                  const std::vector<std::pair<std::int32_t, std::int64_t>>& places,
                  ScoreType type = ScoreType::kMax) {
    const Rows rows = cache.rows(arena_, places);
    // The first head of each group serves as the index query.
    const std::int64_t count = q.dim(0), dim = c.shape.head_dim, kv_heads = c.shape.kv_heads;
    const Tensor index_q = arena_.floats({count, kv_heads * dim});
    for (std::int64_t row = 0; row < count; ++row)
      for (std::int64_t h = 0; h < kv_heads; ++h)
        std::copy_n(q.row<float>(row) + h * c.group * dim, dim, index_q.row<float>(row) + h * dim);
    const Selection selection{.topk = 3, .score_type = type, .scale = 0.3f};
    const Tensor blocks = run_select(backend, index_q, rows, cache.index, selection);
    return {run_attention(backend, q, rows, cache.kv, 0.2f, nullptr), blocks,
            run_attention(backend, q, rows, cache.kv, 0.2f, &blocks)};
  }
  Tensor queries(const CacheCase& c, std::int64_t rows) {
    return arena_.random({rows, c.shape.kv_heads * c.group * c.shape.head_dim}, 2);
  }
  static void expect_same_rows(const Attended& part, const Attended& all, std::int64_t begin,
                               std::int64_t end, const std::string& what) {
    expect_same(part.dense, all.dense.rows(begin, end), "attention, " + what);
    expect_same(part.blocks, all.blocks.rows(begin, end), "select_blocks, " + what);
    expect_same(part.sparse, all.sparse.rows(begin, end), "sparse attention, " + what);
  }
  static void expect_finite(const Attended& a, const std::string& what) {
    for (const Tensor& x : {a.dense, a.sparse})
      EXPECT_TRUE(std::all_of(x.as<float>(), x.as<float>() + x.elements(), [](float v) {
        return std::isfinite(v);
      })) << what;
  }
};
INSTANTIATE_TEST_SUITE_P(All, AttentionPromises, testing::ValuesIn(machines(true)), machine_name);

const std::vector<std::int64_t> kLengths = {1, 55, 270};
const std::vector<std::pair<std::int32_t, std::int64_t>> kPlaces = {
    {2, 269}, {0, 0}, {1, 54}, {1, 3}, {2, 127}, {2, 128}, {2, 129}, {1, 20}};

// Each row alone, and the same rows in another order. The cache is full of NaN where there is no
// token, so this also shows that nothing of it leaks.
TEST_P(AttentionPromises, RowAlone) {
  for (const CacheCase& c : cache_cases()) {
    for (const ScoreType type : {ScoreType::kMax, ScoreType::kLse}) {
      TestCache cache(c.shape, kLengths);
      const std::int64_t count = std::ssize(kPlaces);
      const Tensor q = queries(c, count);
      const Attended all = attend(*backend_, c, cache, q, kPlaces, type);
      expect_finite(all, on("attention, {}", describe(c)));
      for (std::int64_t row = 0; row < count; ++row) {
        const auto place = kPlaces[static_cast<std::size_t>(row)];
        expect_same_rows(
            attend(*backend_, c, cache, q.rows(row, row + 1), {place}, type), all, row, row + 1,
            on("{}, sequence {}, slot {} alone", describe(c), place.first, place.second));
      }
      // Many copies of one row, as a long prompt has many rows.
      const Tensor copies = arena_.floats({40, q.dim(1)});
      for (std::int64_t i = 0; i < 40; ++i)
        std::copy_n(q.as<float>(), q.dim(1), copies.row<float>(i));
      const std::vector<std::pair<std::int32_t, std::int64_t>> places(40, kPlaces[0]);
      const Attended many = attend(*backend_, c, cache, copies, places, type);
      for (const std::int64_t i : {0, 17, 39})
        expect_same(many.dense.rows(i, i + 1), all.dense.rows(0, 1),
                    on("attention, {}, copy {} of 40", describe(c), i));
    }
  }
}

TEST_P(AttentionPromises, ShuffledPages) {
  for (const CacheCase& c : cache_cases()) {
    const Tensor q = queries(c, std::ssize(kPlaces));
    TestCache first(c.shape, kLengths, 1);
    const Attended expected = attend(*backend_, c, first, q, kPlaces);
    for (const std::uint64_t seed : {2, 3}) {
      TestCache other(c.shape, kLengths, seed);
      expect_same_rows(attend(*backend_, c, other, q, kPlaces), expected, 0, q.dim(0),
                       on("{}, page seed {}", describe(c), seed));
    }
  }
}

// What a sequence holds beyond a row's slot is nothing to that row: tokens to come, the rest of
// rejected drafts, NaN or infinity.
TEST_P(AttentionPromises, NothingBeyondTheSlot) {
  for (const CacheCase& c : cache_cases()) {
    const Tensor q = queries(c, 1);
    for (const std::int64_t slot : {0, 2, 15, 16, 33, 127, 128}) {
      TestCache longer(c.shape, {270}), exact(c.shape, {slot + 1}), infinite(c.shape, {270});
      for (std::int64_t beyond = slot + 1; beyond < 270; ++beyond)
        for (std::int64_t i = 0; i < c.shape.head_dim; ++i) {
          infinite.set_index_key(0, beyond, i, std::numeric_limits<float>::infinity());
          for (std::int64_t h = 0; h < c.shape.kv_heads; ++h) {
            infinite.set_key(0, beyond, h, i, std::numeric_limits<float>::infinity());
            infinite.set_value(0, beyond, h, i, std::numeric_limits<float>::infinity());
          }
        }
      const Attended expected = attend(*backend_, c, exact, q, {{0, slot}});
      const std::string what = on("{}, slot {}", describe(c), slot);
      expect_finite(expected, what);
      expect_same_rows(attend(*backend_, c, longer, q, {{0, slot}}), expected, 0, 1,
                       what + ", tokens beyond");
      expect_same_rows(attend(*backend_, c, infinite, q, {{0, slot}}), expected, 0, 1,
                       what + ", infinity beyond");
    }
  }
}

// Only the pages of listed blocks are read.
TEST_P(AttentionPromises, OnlyListedPages) {
  for (const CacheCase& c : cache_cases()) {
    TestCache cache(c.shape, {270}), poisoned(c.shape, {270});
    const Tensor q = queries(c, 1);
    const std::int64_t count = 269 / c.shape.page_tokens + 1;
    const Tensor blocks = arena_.make(DType::kI32, {1, c.shape.kv_heads, 4});
    for (std::int64_t h = 0; h < c.shape.kv_heads; ++h) {
      std::int32_t* list = blocks.as<std::int32_t>() + h * 4;
      list[0] = 0;
      list[1] = static_cast<std::int32_t>(count - 1);
      list[2] = list[3] = -1;
    }
    for (std::int64_t b = 1; b < count - 1; ++b) poisoned.poison_block(0, b);
    expect_same(
        run_attention(*backend_, q, poisoned.rows(arena_, {{0, 269}}), poisoned.kv, 0.2f, &blocks),
        run_attention(*backend_, q, cache.rows(arena_, {{0, 269}}), cache.kv, 0.2f, &blocks),
        on("sparse attention, {}", describe(c)));
  }
}

// A list of all visible blocks is dense attention (spec: text-model §3.5.5).
TEST_P(AttentionPromises, FullListIsDense) {
  for (const CacheCase& c : cache_cases()) {
    TestCache cache(c.shape, {270});
    const Rows rows = cache.rows(arena_, {{0, 269}});
    const Tensor q = queries(c, 1);
    const std::int64_t count = 269 / c.shape.page_tokens + 1;
    const Tensor blocks = arena_.make(DType::kI32, {1, c.shape.kv_heads, count + 3});
    for (std::int64_t i = 0; i < blocks.elements(); ++i) {
      const std::int64_t b = i % (count + 3);
      blocks.as<std::int32_t>()[i] = static_cast<std::int32_t>(b < count ? b : -1);
    }
    expect_same(run_attention(*backend_, q, rows, cache.kv, 0.2f, &blocks),
                run_attention(*backend_, q, rows, cache.kv, 0.2f, nullptr),
                on("attention to all blocks, {}", describe(c)));
  }
}

// One step of everything with 1, 2 and 3 threads: the same bits.
class ThreadPromises : public AttentionPromises {
 protected:
  // The results of every op that sums.
  std::vector<Tensor> run(Backend& backend, std::uint64_t seed) {
    arena_.generator() = Random(seed);
    const CacheCase c{{DType::kBF16, 16, 2, 32}, 3};
    const std::int64_t rows = std::ssize(kPlaces), hidden = 6 * 32, experts = 5, k = 2;
    TestCache cache(c.shape, kLengths);
    const Tensor x = arena_.random({rows, hidden}), normed = arena_.floats({rows, hidden});
    backend.rms_norm(x, arena_.random({hidden}), 1e-6f, normed);

    const Tensor positions = arena_.make(DType::kI64, {rows});
    std::iota(positions.as<std::int64_t>(), positions.as<std::int64_t>() + rows, 100);
    const Tensor rotations = arena_.floats({rows, 16});
    backend.rope_table(positions, {arena_.random({8}), 1}, rotations);
    const HeadNorm norm{arena_.random({32}), 1e-6f, rotations};
    const Tensor q = arena_.floats({rows, hidden});
    backend.norm_rope(normed, norm, q);
    backend.store_kv(arena_.random({rows, 64}), arena_.random({rows, 64}), norm,
                     cache.rows(arena_, kPlaces), cache.kv);
    backend.store_index(arena_.random({rows, 32}), norm, cache.rows(arena_, kPlaces), cache.index);
    const Attended a = attend(backend, c, cache, q, kPlaces);

    const Router router{arena_.random_matrix(codec_of(Format::kF32), experts, hidden),
                        arena_.random({experts})};
    const Tensor picks = arena_.make(DType::kI32, {rows, k}), weights = arena_.floats({rows, k});
    backend.route(a.sparse, router, false, picks, weights);
    const Dispatch d = make_dispatch(experts, rows, k);
    backend.dispatch(picks, d);
    std::vector<Linear> experts_weights;
    for (std::int64_t e = 0; e < experts; ++e)
      experts_weights.push_back(
          {both_layouts(arena_, backend, codec_of(Format::kMxfp8), 300, hidden).back()});
    const Tensor up = arena_.floats({rows * k, 300}), out = arena_.floats({rows, 300});
    const GroupedOutput grouped{experts_weights, up};
    backend.grouped_linear(a.sparse, d, true, {&grouped, 1}, {});
    backend.swiglu(up, up, {}, up);
    const Linear dense{arena_.random_matrix(codec_of(Format::kBF16), 300, hidden)};
    const Tensor shared = run_linear(backend, a.dense, dense);
    backend.combine(up, d, weights, 2, shared, out);
    backend.synchronize();
    return {q, a.dense, a.blocks, a.sparse, picks, weights, up, shared, out};
  }
};
INSTANTIATE_TEST_SUITE_P(All, ThreadPromises, testing::ValuesIn(machines(true)), machine_name);

TEST_P(ThreadPromises, AnyNumberOfThreads) {
  ThreadPool one(1), three(3);
  const auto with_one = make(GetParam(), one), with_three = make(GetParam(), three);
  for (const std::uint64_t seed : {1, 2, 3}) {
    const std::vector<Tensor> expected = run(*with_one, seed);
    for (Backend* other : {backend_.get(), with_three.get()}) {
      const std::vector<Tensor> actual = run(*other, seed);
      for (std::size_t i = 0; i < expected.size(); ++i)
        expect_same(actual[i], expected[i],
                    on("result {} with {} threads", i, other == backend_.get() ? 2 : 3));
    }
  }
}

}  // namespace
}  // namespace m3
