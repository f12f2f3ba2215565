// What ops_test.cc has no reason to know: that long contexts are cut into groups of pages.
#include <gtest/gtest.h>

#include <numeric>

#include "backend/cpu/kernels_testing.h"

namespace m3 {
namespace {

class LongAttention : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Isas, LongAttention, testing::ValuesIn(cpu_isas()), cpu::isa_test_name);

constexpr std::int64_t kTokens = 4, kHeads = 4, kKvHeads = 2, kDim = 24, kPages = 150;

KvView view() {
  KvView cache{.dtype = DType::kBF16,
               .order = PageOrder::kPairs,
               .page_tokens = kTokens,
               .kv_heads = kKvHeads,
               .head_dim = kDim};
  cache.head_stride = cache.head_bytes();
  cache.page_stride = kKvHeads * cache.head_stride;
  return cache;
}

struct LongSequence {
  explicit LongSequence(std::int64_t rows)
      : cached(kPages * view().page_stride),
        q(rows * kHeads * kDim * 4),
        slots(rows * 8),
        sequences(rows * 4),
        pages(kPages * 4),
        count(rows) {
    std::uint32_t state = 1;
    const auto next = [&] {
      state = state * 1664525u + 1013904223u;
      return static_cast<float>(state >> 8) * 0x1p-23f - 1;
    };
    auto* values = reinterpret_cast<BF16*>(cached.data());
    for (std::int64_t i = 0; i < cached.bytes() / 2; ++i) values[i] = to_bf16(3 * next());
    // Each query alone must not depend on how many there are.
    for (std::int64_t i = 0; i < q.bytes() / 4; ++i)
      reinterpret_cast<float*>(q.data())[i] = static_cast<float>(i % (kHeads * kDim)) * 0.02f - 1;
    auto* slot = reinterpret_cast<std::int64_t*>(slots.data());
    std::iota(slot, slot + rows, kPages * kTokens - rows);
    auto* page = reinterpret_cast<std::int32_t*>(pages.data());
    for (std::int64_t i = 0; i < kPages; ++i)
      page[i] = static_cast<std::int32_t>((i * 7 + 3) % kPages);
  }

  std::vector<float> attend(const std::string& isa, int threads) const {
    ThreadPool pool(threads);
    const auto backend = make_cpu_backend(isa, pool).value();
    KvView cache = view();
    cache.base = cached.data();
    const Rows rows{slots.tensor(DType::kI64, {count}), sequences.tensor(DType::kI32, {count}),
                    pages.tensor(DType::kI32, {1, kPages})};
    std::vector<float> out(static_cast<std::size_t>(count * kHeads * kDim));
    backend->attention(q.tensor(DType::kF32, {count, kHeads * kDim}), rows, cache, 0.2f, nullptr,
                       {out.data(), DType::kF32, {count, kHeads * kDim}}, {});
    return out;
  }

  Buffer cached, q, slots, sequences, pages;
  std::int64_t count;
};

// One row on eight threads is cut at groups of pages; on one thread, or among many rows, it is not.
TEST_P(LongAttention, CuttingARowForThreadsChangesNoBit) {
  const LongSequence one(1), many(40);
  const std::vector<float> whole = one.attend(GetParam(), 1);
  EXPECT_EQ(one.attend(GetParam(), 8), whole);
  const std::vector<float> among = many.attend(GetParam(), 2);
  EXPECT_TRUE(std::equal(whole.begin(), whole.end(), among.end() - kHeads * kDim));
}

}  // namespace
}  // namespace m3
