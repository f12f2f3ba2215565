// Ops around heads and caches: all backends and instruction sets against the reference. The
// tolerances are reasoned as in ops_test.cc.
#include "backend/op_testing.h"
#include "backend/op_testing_cache.h"

namespace m3 {
namespace {

using CacheOps = OpTest;
INSTANTIATE_TEST_SUITE_P(All, CacheOps, testing::ValuesIn(machines(false)), machine_name);

// A head dim with how much of it is rotated.
struct HeadShape {
  std::int64_t dim, rotary_dim;
};
constexpr HeadShape kHeads[] = {{8, 4}, {8, 8}, {24, 8}, {32, 16}, {128, 64}};

HeadNorm random_norm(Arena& arena, Backend& reference, const HeadShape& shape, std::int64_t rows) {
  const Tensor positions = arena.make(DType::kI64, {rows});
  for (std::int64_t row = 0; row < rows; ++row)
    positions.as<std::int64_t>()[row] = arena.generator().below(1 << 20);
  const Tensor inv_freq = absolute(arena, arena.random({shape.rotary_dim / 2}));
  const Tensor rotations = arena.floats({rows, shape.rotary_dim});
  reference.rope_table(positions, {inv_freq, 1.07f}, rotations);
  return {arena.random({shape.dim}), 1e-6f, rotations};
}

// A float32 norm and rotation: no larger error than a few roundings of the largest element.
double norm_rope_error(std::int64_t dim, double magnitude) {
  return static_cast<double>(dim / 2 + 16) * kF32 * magnitude;
}

TEST_P(CacheOps, NormRope) {
  for (const HeadShape& shape : kHeads) {
    for (const std::int64_t heads : {1, 3, 16}) {
      const std::int64_t rows = 5;
      const HeadNorm norm = random_norm(arena_, *reference_, shape, rows);
      const Tensor x = arena_.random({rows, heads * shape.dim}, 3);
      const Tensor expected = arena_.floats({rows, heads * shape.dim});
      reference_->norm_rope(x, norm, expected);
      backend_->norm_rope(x, norm, x);
      backend_->synchronize();
      const double error = norm_rope_error(shape.dim, largest(expected));
      expect_near(x, expected,
                  on("norm_rope, {} heads of {}, rotary {}", heads, shape.dim, shape.rotary_dim),
                  [&](std::int64_t) { return error; });
    }
  }
}

TEST_P(CacheOps, RopeTable) {
  const Tensor positions = arena_.make(DType::kI64, {65});
  for (std::int64_t i = 0; i < 65; ++i)
    positions.as<std::int64_t>()[i] = i < 33 ? i : (i * 32768 - 1) / 2;
  for (const std::int64_t half : {2, 4, 12, 32}) {
    const Tensor inv_freq = arena_.floats({half});
    for (std::int64_t i = 0; i < half; ++i)
      inv_freq.as<float>()[i] =
          static_cast<float>(std::pow(5e6, -static_cast<double>(i) / static_cast<double>(half)));
    const Tensor actual = arena_.floats({65, 2 * half}), expected = arena_.floats({65, 2 * half});
    backend_->rope_table(positions, {inv_freq, 1.25f}, actual);
    backend_->synchronize();
    reference_->rope_table(positions, {inv_freq, 1.25f}, expected);
    expect_near(actual, expected, on("rope_table, rotary_dim {}", 2 * half),
                [](std::int64_t) { return 1.25 * 4 * kF32; });
  }
}

// What was stored, as float32: K and V of every head and the index key of each (sequence, slot).
Tensor read_back(Arena& arena, const TestCache& cache,
                 const std::vector<std::pair<std::int32_t, std::int64_t>>& places) {
  const std::int64_t dim = cache.kv.head_dim, heads = cache.kv.kv_heads;
  const Tensor out = arena.floats({std::ssize(places), 2 * heads + 1, dim});
  for (std::size_t p = 0; p < places.size(); ++p) {
    const auto [sequence, slot] = places[p];
    float* row = out.row<float>(static_cast<std::int64_t>(p));
    for (std::int64_t i = 0; i < dim; ++i) {
      for (std::int64_t h = 0; h < heads; ++h) {
        row[h * dim + i] = cache.key(sequence, slot, h, i);
        row[(heads + h) * dim + i] = cache.value(sequence, slot, h, i);
      }
      row[2 * heads * dim + i] = cache.index_key(sequence, slot, i);
    }
  }
  return out;
}

TEST_P(CacheOps, StoreKvAndIndex) {
  const std::vector<std::pair<std::int32_t, std::int64_t>> places = {
      {0, 0}, {0, 1}, {1, 130}, {1, 127}, {1, 128}};
  for (const DType dtype : kCacheDTypes) {
    for (const HeadShape& shape : kHeads) {
      for (const std::int64_t page_tokens : {4, 16, 128}) {
        const std::int64_t rows = std::ssize(places), kv_heads = 1 + shape.dim % 3;
        const TestCache::Shape cache_shape{dtype, page_tokens, kv_heads, shape.dim};
        TestCache actual(cache_shape, {2, 131}), expected(cache_shape, {2, 131});
        const HeadNorm norm = random_norm(arena_, *reference_, shape, rows);
        const Tensor k = arena_.random({rows, kv_heads * shape.dim}, 2);
        const Tensor v = arena_.random({rows, kv_heads * shape.dim});
        const Tensor index = arena_.random({rows, shape.dim}, 2);
        for (auto& [backend, cache] :
             {std::pair{backend_.get(), &actual}, {reference_.get(), &expected}}) {
          const Rows where = cache->rows(arena_, places);
          backend->store_kv(k, v, norm, where, cache->kv);
          backend->store_index(index, norm, where, cache->index);
          backend->synchronize();
        }
        const Tensor read = read_back(arena_, actual, places);
        const Tensor wanted = read_back(arena_, expected, places);
        // Where float32 differs a little, the cache's type may round the other way: by one unit.
        const bool is_bf16 = dtype == DType::kBF16;
        const double unit = is_bf16 ? 2 * kBf16 : 0x1p-3, smallest = is_bf16 ? 0 : 0x1p-9;
        const double error = norm_rope_error(shape.dim, largest(wanted)) + smallest;
        const std::string what =
            on("store, {} cache, head {}, page {}", dtype_name(dtype), shape.dim, page_tokens);
        expect_near(read, wanted, what, [&](std::int64_t i) {
          const bool is_value = i / shape.dim % (2 * kv_heads + 1) / kv_heads == 1;
          if (is_value) return 0.0;  // copied or rounded, nothing else
          return unit * std::abs(wanted.as<float>()[i]) + error;
        });
        // Nothing else has changed.
        for (std::int64_t slot = 0; slot < 127; ++slot)
          EXPECT_EQ(actual.key(1, slot, kv_heads - 1, 0), expected.key(1, slot, kv_heads - 1, 0))
              << what << ", slot " << slot;
      }
    }
  }
}

// Without a norm's weight the keys are those that rotate() gives, to the bit of the cache's type.
TEST_P(CacheOps, StoreKvWithoutANorm) {
  const std::vector<std::pair<std::int32_t, std::int64_t>> places = {{0, 0}, {0, 1}, {0, 5}};
  for (const DType dtype : kCacheDTypes) {
    for (const HeadShape& shape : kHeads) {
      TestCache cache({dtype, /*page_tokens=*/4, /*kv_heads=*/2, shape.dim}, {6});
      HeadNorm norm = random_norm(arena_, *reference_, shape, std::ssize(places));
      norm.weight = {};
      const Tensor k = arena_.random({std::ssize(places), 2 * shape.dim}, 2);
      backend_->store_kv(k, k, norm, cache.rows(arena_, places), cache.kv);
      backend_->rotate(norm.rotations, shape.dim, k);
      backend_->synchronize();
      for (std::size_t p = 0; p < places.size(); ++p)
        for (std::int64_t i = 0; i < 2 * shape.dim; ++i) {
          const float key = k.row<float>(static_cast<std::int64_t>(p))[i];
          EXPECT_EQ(cache.key(0, places[p].second, i / shape.dim, i % shape.dim),
                    rounded_to(dtype, key))
              << on("head {}", shape.dim);
        }
    }
  }
}

std::string describe(const TestCache::Shape& s, std::int64_t group) {
  return fmt::format("{} cache, head {}, page {}, {} K/V heads, {} heads each", dtype_name(s.dtype),
                     s.head_dim, s.page_tokens, s.kv_heads, group);
}

// Every head size with every page size, type and group; the number of K/V heads takes turns.
template <typename Body>
void for_each_cache_shape(Body body) {
  std::int64_t turn = 0;
  for (const DType dtype : kCacheDTypes)
    for (const std::int64_t head_dim : {8, 24, 32, 128})
      for (const std::int64_t page_tokens : {4, 16, 128})
        for (const std::int64_t group : {1, 3, 16})
          body(TestCache::Shape{dtype, page_tokens, 1 + turn++ % 4, head_dim}, group);
}

const std::vector<std::int64_t> kLengths = {1, 40, 300};
const std::vector<std::pair<std::int32_t, std::int64_t>> kPlaces = {{0, 0},  {1, 3},   {2, 299},
                                                                    {1, 39}, {2, 127}, {2, 128}};

// Random lists: the own block, others, an empty list, a full one.
Tensor random_blocks(Arena& arena, const TestCache::Shape& shape, std::int64_t topk) {
  const std::int64_t rows = std::ssize(kPlaces);
  const Tensor blocks = arena.make(DType::kI32, {rows, shape.kv_heads, topk});
  std::fill_n(blocks.as<std::int32_t>(), blocks.elements(), -1);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t visible = kPlaces[static_cast<std::size_t>(row)].second / shape.page_tokens;
    for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
      std::int32_t* list = blocks.row<std::int32_t>(row) + h * topk;
      std::int64_t listed = 0;
      for (std::int64_t b = 0; b <= visible && listed < topk; ++b)
        if (arena.generator().below(visible + 1) < topk) list[listed++] = static_cast<int>(b);
    }
  }
  return blocks;
}

// An error d of the scores changes each probability by a factor within exp(±2d).
double attention_error(const Tensor& q, const TestCache::Shape& shape, double scale,
                       double q_error) {
  const auto dim = static_cast<double>(shape.head_dim);
  const double score_magnitude = scale * dim * largest(q);  // |keys| and |values| are at most 1
  const double score_error = (q_error + (dim + 8) * kF32) * score_magnitude + 4 * kF32;
  // Weights and their sum are rounded to bfloat16; the sums of 300 tokens are in float32.
  return std::expm1(2 * score_error) + 2 * kBf16 + 400 * kF32;
}

TEST_P(CacheOps, Attention) {
  for_each_cache_shape([&](const TestCache::Shape& shape, std::int64_t group) {
    TestCache cache(shape, kLengths);
    const std::int64_t width = shape.kv_heads * group * shape.head_dim;
    const float scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    const Rows rows = cache.rows(arena_, kPlaces);
    const Tensor blocks = random_blocks(arena_, shape, 5);
    const Tensor exact_q = arena_.random_bf16({std::ssize(kPlaces), width}, 2);
    const Tensor q = arena_.random({std::ssize(kPlaces), width}, 2);
    for (const auto& [input, q_error] : {std::pair{exact_q, 0.0}, {q, kBf16}}) {
      const double error = attention_error(input, shape, scale, q_error);
      for (const Tensor* list : {static_cast<const Tensor*>(nullptr), &blocks})
        expect_near(run_attention(*backend_, input, rows, cache.kv, scale, list),
                    run_attention(*reference_, input, rows, cache.kv, scale, list),
                    on("{} attention, {}, q {}", list ? "sparse" : "dense", describe(shape, group),
                       q_error == 0 ? "exact" : "rounded"),
                    [&](std::int64_t) { return error; });
    }
  });
}

// Spec: training §14, row 3.
TEST_P(CacheOps, SparseAttentionInBfloat16) {
  for_each_cache_shape([&](const TestCache::Shape& shape, std::int64_t group) {
    if (shape.dtype != DType::kBF16) return;
    TestCache cache(shape, kLengths);
    const std::int64_t width = shape.kv_heads * group * shape.head_dim;
    const float scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    const Rows rows = cache.rows(arena_, kPlaces);
    const Tensor blocks = random_blocks(arena_, shape, 5);
    const Tensor q = arena_.random({std::ssize(kPlaces), width});
    const Tensor actual = run_attention(*backend_, q, rows, cache.kv, scale, &blocks);
    const Tensor exact = run_attention(*reference_, q, rows, cache.kv, scale, &blocks);
    double sum = 0, most = 0;
    for (std::int64_t i = 0; i < exact.elements(); ++i) {
      const double error = std::abs(double{actual.as<float>()[i]} - exact.as<float>()[i]);
      sum += error;
      most = std::max(most, error);
    }
    EXPECT_LT(sum / static_cast<double>(exact.elements()), 1e-3)
        << on("{}", describe(shape, group));
    EXPECT_LT(most, 2e-2) << on("{}", describe(shape, group));
  });
}

// Long enough to be cut into groups of pages by a backend that does so.
TEST_P(CacheOps, AttentionOverManyPages) {
  for (const std::int64_t page_tokens : {4, 16}) {
    const TestCache::Shape shape{.page_tokens = page_tokens, .kv_heads = 2, .head_dim = 32};
    TestCache cache(shape, {1500});
    const Rows rows = cache.rows(arena_, {{0, 1499}, {0, 511}, {0, 512}, {0, 1027}});
    const Tensor q = arena_.random_bf16({4, 2 * 3 * 32}, 4);
    const double error = attention_error(q, shape, 0.25, 0) + 1500 * kF32;
    expect_near(run_attention(*backend_, q, rows, cache.kv, 0.25f, nullptr),
                run_attention(*reference_, q, rows, cache.kv, 0.25f, nullptr),
                on("attention over {} pages", 1500 / page_tokens),
                [&](std::int64_t) { return error; });
  }
}

// With queries that bfloat16 holds, scores differ by float32 roundings only: no other choice.
TEST_P(CacheOps, SelectBlocks) {
  for_each_cache_shape([&](const TestCache::Shape& shape, std::int64_t heads) {
    TestCache cache(shape, kLengths);
    const Rows rows = cache.rows(arena_, kPlaces);
    const Tensor q = arena_.random_bf16({std::ssize(kPlaces), heads * shape.head_dim});
    for (const ScoreType type : {ScoreType::kMax, ScoreType::kLse}) {
      for (const std::int64_t topk : {1, 3, 16}) {
        if (type == ScoreType::kLse && topk != 3) continue;  // pooling and ranking are apart
        const Selection s{.topk = topk,
                          .init_blocks = topk / 8,
                          .local_blocks = std::min<std::int64_t>(topk / 2, 2),
                          .score_type = type,
                          .scale = 0.5f};
        expect_same(run_select(*backend_, q, rows, cache.index, s),
                    run_select(*reference_, q, rows, cache.index, s),
                    on("select_blocks, {}, topk {}, {}", describe(shape, heads), topk,
                       type == ScoreType::kMax ? "max" : "lse"));
      }
    }
  });
}

}  // namespace
}  // namespace m3
