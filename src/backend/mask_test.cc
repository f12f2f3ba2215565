// Masks of training (RowMask): every instruction set against the reference, and the reference
// against differences and against what the mask says.
#include <array>
#include <functional>
#include <limits>

#include "backend/op_testing.h"
#include "backend/op_testing_cache.h"
#include "ops/gradients.h"

namespace m3 {
namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

using Places = std::vector<std::pair<std::int32_t, std::int64_t>>;

Places whole(const std::vector<std::int64_t>& lengths) {
  Places places;
  for (std::size_t s = 0; s < lengths.size(); ++s)
    for (std::int64_t slot = 0; slot < lengths[s]; ++slot)
      places.emplace_back(static_cast<std::int32_t>(s), slot);
  return places;
}

// Some rows and their keys and values.
struct Case {
  std::int64_t heads, kv_heads, dim, page_tokens;
  std::vector<std::int64_t> lengths;
};

class MaskTest : public OpTest {
 protected:
  // Half of the pairs hidden, a third of the others with something to add; row 3 sees nothing.
  RowMask random_mask(const std::vector<std::int64_t>& lengths) {
    const Places places = whole(lengths);
    const std::int64_t rows = std::ssize(places);
    const std::int64_t slots = *std::max_element(lengths.begin(), lengths.end()) + 1;
    const RowMask mask{arena_.floats({rows, slots}), arena_.make(DType::kI64, {rows})};
    Random& random = arena_.generator();
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto [sequence, slot] = places[static_cast<std::size_t>(row)];
      const std::int64_t length = lengths[static_cast<std::size_t>(sequence)];
      mask.last_slots.as<std::int64_t>()[row] = length - 1;
      for (std::int64_t t = 0; t < slots; ++t)
        mask.bias.row<float>(row)[t] = row == 3 || t >= length || random.below(2) == 0 ? kHidden
                                       : random.below(3) == 0 ? 2 * random.next()
                                                              : 0.0f;
    }
    return mask;
  }

  // Lists of two visible blocks or one, and none for some rows.
  Tensor random_blocks(const Case& c) {
    const Places places = whole(c.lengths);
    const Tensor blocks = arena_.make(DType::kI32, {std::ssize(places), c.kv_heads, 2});
    for (std::size_t row = 0; row < places.size(); ++row)
      for (std::int64_t h = 0; h < c.kv_heads; ++h) {
        std::int32_t* list = blocks.row<std::int32_t>(static_cast<std::int64_t>(row)) + 2 * h;
        const auto own = static_cast<std::int32_t>(places[row].second / c.page_tokens);
        const auto other = static_cast<std::int32_t>(arena_.generator().below(own + 1));
        list[0] = row % 7 == 5 ? -1 : other;
        list[1] = row % 7 == 5 || other == own ? -1 : own;
      }
    return blocks;
  }

  struct Derivatives {
    Tensor d_q, d_k, d_v;
  };
  Derivatives run_gradient(GradientOps& ops, const Case& c, const Tensor& q, const Rows& rows,
                           const KvView& cache, const Tensor* blocks, const Tensor& out,
                           const Tensor& log_sums, const Tensor& d_out) {
    const std::int64_t count = q.dim(0), kv_width = c.kv_heads * c.dim;
    const Derivatives d{arena_.floats({count, q.dim(1)}), arena_.floats({count, kv_width}),
                        arena_.floats({count, kv_width})};
    ops.attention(q, rows, cache, kScale, blocks, out, log_sums, d_out, d.d_q, d.d_k, d.d_v);
    return d;
  }

  static constexpr float kScale = 0.4f;
};

// Sums of a hundred products at most, rounded three times, of numbers around the largest; where a
// row sees one token or two, what cancels is around 1.
void expect_close(const Tensor& actual, const Tensor& expected, const std::string& what) {
  const double size = std::max(1.0, largest(expected));
  expect_near(actual, expected, what, [&](std::int64_t) { return 3 * kBf16 * size + kTiny; });
}

TEST_P(MaskTest, AttentionAndItsDerivative) {
  const Case cases[] = {{4, 2, 4, 4, {9, 5}},
                        {3, 1, 6, 5, {23, 4}},  // odd numbers of queries and tokens
                        {16, 1, 32, 16, {70}},
                        {6, 2, 18, 8, {40, 4, 8}}};
  for (const Case& c : cases)
    for (const bool listed : {false, true}) {
      const std::string what = on("{} heads of {}{}", c.heads, c.dim, listed ? ", listed" : "");
      const TestCache cache(
          {.page_tokens = c.page_tokens, .kv_heads = c.kv_heads, .head_dim = c.dim}, c.lengths);
      Rows rows = cache.rows(arena_, whole(c.lengths));
      rows.mask = random_mask(c.lengths);
      const Tensor blocks = random_blocks(c);
      const Tensor* list = listed ? &blocks : nullptr;
      const std::int64_t count = rows.slots.dim(0), width = c.heads * c.dim;
      const Tensor q = arena_.random_bf16({count, width}, 2), d_out = arena_.random({count, width});
      const Tensor sums = arena_.floats({count, c.heads}), expected_sums = arena_.copy(sums);
      const Tensor out = run_attention(*backend_, q, rows, cache.kv, kScale, list, sums);
      const Tensor expected =
          run_attention(*reference_, q, rows, cache.kv, kScale, list, expected_sums);
      expect_close(out, expected, "out, " + what);
      expect_near(sums, expected_sums, "log sums, " + what, [](std::int64_t) { return 8 * kBf16; });
      const Derivatives d = run_gradient(*backend_->gradients(), c, q, rows, cache.kv, list,
                                         expected, expected_sums, d_out);
      const Derivatives exact = run_gradient(*reference_->gradients(), c, q, rows, cache.kv, list,
                                             expected, expected_sums, d_out);
      expect_close(d.d_q, exact.d_q, "d_q, " + what);
      expect_close(d.d_k, exact.d_k, "d_k, " + what);
      expect_close(d.d_v, exact.d_v, "d_v, " + what);
      // Row 3 sees nothing: nothing comes of it, and nothing goes to it.
      EXPECT_EQ(largest(out.rows(3, 4)), 0) << what;
      EXPECT_EQ(largest(d.d_q.rows(3, 4)), 0) << what;
      EXPECT_EQ(sums.row<float>(3)[0], kHidden) << what;
      if (HasFailure()) return;
    }
}

// A bias that hides what lies ahead is no bias at all.
TEST_P(MaskTest, OfACausalBiasIsNone) {
  const Case c{6, 2, 8, 4, {19, 6}};
  const TestCache cache({.page_tokens = c.page_tokens, .kv_heads = c.kv_heads, .head_dim = c.dim},
                        c.lengths);
  const Places places = whole(c.lengths);
  const Rows plain = cache.rows(arena_, places);
  Rows masked = plain;
  masked.mask = random_mask(c.lengths);
  for (std::int64_t row = 0; row < std::ssize(places); ++row)
    for (std::int64_t t = 0; t < masked.mask.bias.dim(1); ++t)
      masked.mask.bias.row<float>(row)[t] =
          t <= places[static_cast<std::size_t>(row)].second ? 0 : kHidden;
  const std::int64_t count = plain.slots.dim(0), width = c.heads * c.dim;
  const Tensor q = arena_.random({count, width});
  expect_close(run_attention(*backend_, q, masked, cache.kv, kScale, nullptr),
               run_attention(*backend_, q, plain, cache.kv, kScale, nullptr), on("all blocks"));
  const Tensor index_q = arena_.random_bf16({count, 2 * c.dim});
  for (const ScoreType type : {ScoreType::kMax, ScoreType::kLse}) {
    const Selection selection{.topk = 3, .score_type = type, .scale = 0.5f};
    expect_same(run_select(*backend_, index_q, masked, cache.index, selection),
                run_select(*backend_, index_q, plain, cache.index, selection), on("lists"));
  }
}

// A hidden token does not compete, and a block of them alone is not chosen, not even as the local
// or an initial one (spec: training §13, S3).
TEST_P(MaskTest, SelectionSeesWhatTheRowSees) {
  const Case c{2, 2, 8, 4, {31, 7}};
  const TestCache cache({.page_tokens = c.page_tokens, .kv_heads = c.kv_heads, .head_dim = c.dim},
                        c.lengths);
  const Places places = whole(c.lengths);
  Rows rows = cache.rows(arena_, places);
  rows.mask = random_mask(c.lengths);
  for (std::int64_t row = 10; row < 31; ++row)
    for (std::int64_t t = 8; t < 12; ++t) rows.mask.bias.row<float>(row)[t] = kHidden;
  const Tensor q = arena_.random_bf16({std::ssize(places), 2 * c.dim});
  for (const ScoreType type : {ScoreType::kMax, ScoreType::kLse})
    for (const std::int64_t topk : {2, 16}) {
      const Selection selection{.topk = topk, .init_blocks = 1, .score_type = type, .scale = 0.5f};
      const Tensor lists = run_select(*backend_, q, rows, cache.index, selection);
      expect_same(lists, run_select(*reference_, q, rows, cache.index, selection), on("lists"));
      for (std::int64_t row = 0; row < std::ssize(places); ++row) {
        const std::int64_t slot = places[static_cast<std::size_t>(row)].second;
        std::vector<std::int32_t> seen;
        for (std::int64_t t = 0; t <= slot; ++t)
          if (rows.bias_of(row)[t] != kHidden && (seen.empty() || seen.back() != t / 4))
            seen.push_back(static_cast<std::int32_t>(t / 4));
        for (std::int64_t h = 0; h < 2; ++h) {
          const std::int32_t* list = lists.row<std::int32_t>(row) + h * topk;
          const std::vector<std::int32_t> chosen(list, std::find(list, list + topk, -1));
          EXPECT_EQ(chosen.size(),
                    std::min<std::size_t>(seen.size(), static_cast<std::size_t>(topk)));
          EXPECT_TRUE(std::includes(seen.begin(), seen.end(), chosen.begin(), chosen.end()))
              << on("row {}, top {}", row, topk);
        }
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Machines, MaskTest, testing::ValuesIn(machines(true)), machine_name);

}  // namespace
}  // namespace m3
