// The ops that only the vision tower calls: all backends and instruction sets against the
// reference, worked examples, and what segments promise. Tolerances as in ops_test.cc.
#include "backend/op_testing.h"

namespace m3 {
namespace {

class VisionOps : public OpTest {
 protected:
  Tensor segments_of(const std::vector<std::int32_t>& offsets) {
    return arena_.of<std::int32_t>({std::ssize(offsets)}, offsets);
  }
  Tensor attend(Backend& backend, const Tensor& q, const Tensor& k, const Tensor& v,
                const std::vector<std::int32_t>& offsets, std::int64_t dim) {
    const Tensor out = arena_.floats({q.dim(0), q.dim(1)});
    backend.segment_attention(q, k, v, segments_of(offsets), dim, 0.3f, out);
    backend.synchronize();
    return out;
  }
};
INSTANTIATE_TEST_SUITE_P(All, VisionOps, testing::ValuesIn(machines(true)), machine_name);

TEST_P(VisionOps, LayerNorm) {
  for (const std::int64_t dim : {2, 7, 31, 32, 33, 257, 1280}) {
    for (const float offset : {0.0f, 20.0f}) {
      const Tensor x = arena_.random({5, dim});
      for (std::int64_t i = 0; i < x.elements(); ++i) x.as<float>()[i] += offset;
      const LayerNorm norm{arena_.random({dim}), arena_.random({dim}), 1e-5f};
      const Tensor expected = arena_.floats({5, dim});
      reference_->layer_norm(x, norm, expected);
      backend_->layer_norm(x, norm, x);
      backend_->synchronize();
      // The mean's error, of dim terms as large as the offset, against a deviation of about 0.6.
      const double error = static_cast<double>(dim + 16) * kF32 * (2 + 4 * offset);
      expect_near(x, expected, on("layer_norm [5, {}], offset {}", dim, offset),
                  [&](std::int64_t) { return error; });
    }
  }
}

TEST_P(VisionOps, Gelu) {
  for (const std::int64_t dim : {1, 7, 33, 1000}) {
    const Tensor x = arena_.random({3, dim}, 6), bias = arena_.random({dim});
    const Tensor expected = arena_.floats({3, dim});
    reference_->gelu(x, bias, expected);
    backend_->gelu(x, bias, x);
    backend_->synchronize();
    // 1.5e-7 of the error function, times up to 7 / 2.
    expect_near(x, expected, on("gelu [3, {}]", dim), [&](std::int64_t) { return 6e-7; });
  }
}

TEST_P(VisionOps, GeluIsTheExactForm) {
  const Tensor x = arena_.of<float>({1, 5}, {-3, -1, 0, 1, 3});
  backend_->gelu(x, Tensor(), x);
  backend_->synchronize();
  const float expected[] = {-0.00404970f, -0.15865525f, 0, 0.84134475f, 2.99595031f};
  for (int i = 0; i < 5; ++i) EXPECT_NEAR(x.as<float>()[i], expected[i], 4e-7) << i;
}

TEST_P(VisionOps, AddsARowToAllAndCopies) {
  for (const std::int64_t dim : {1, 7, 33, 5000}) {
    const Tensor row = arena_.random({dim}), sum = arena_.random({3, dim});
    const Tensor expected = arena_.copy(sum), copied = arena_.floats({3, dim});
    backend_->add(row, sum);
    backend_->copy(sum, copied);
    backend_->synchronize();
    reference_->add(row, expected);
    expect_same(sum, expected, on("add [{}] to [3, {}]", dim, dim));
    expect_same(copied, expected, on("copy [3, {}]", dim));
  }
}

// spec: vision §6.3.3, "Check".
TEST_P(VisionOps, RotatesThreeAxes) {
  constexpr std::int64_t kFrequencies = 13, kDim = 80;
  const Tensor inv_freq = arena_.floats({kFrequencies});
  for (std::int64_t i = 0; i < kFrequencies; ++i)
    inv_freq.as<float>()[i] = static_cast<float>(std::pow(1e4, -2.0 * static_cast<double>(i) / 26));
  const Tensor positions = arena_.of<std::int64_t>({2, 3}, {0, 1, 0, 3, 0, 7});
  const Tensor table = arena_.floats({2, 6 * kFrequencies});
  backend_->rope_table(positions, {inv_freq, 1}, table);
  const Tensor x = arena_.floats({2, 2 * kDim});
  std::fill_n(x.as<float>(), x.elements(), 0.0f);
  x.row<float>(0)[13] = 1;         // first head: h
  x.row<float>(0)[kDim + 79] = 1;  // second head: not rotated
  x.row<float>(1)[0] = 1;          // t
  x.row<float>(1)[kDim + 26] = 1;  // w
  backend_->rotate(table, kDim, x);
  backend_->synchronize();
  const auto expect_pair = [&](std::int64_t row, std::int64_t lane, double angle) {
    EXPECT_NEAR(x.row<float>(row)[lane], std::cos(angle), 1e-6) << row << " " << lane;
    EXPECT_NEAR(x.row<float>(row)[lane + 39], std::sin(angle), 1e-6) << row << " " << lane;
  };
  expect_pair(0, 13, 1);
  expect_pair(1, 0, 3);
  expect_pair(1, kDim + 26, 7);
  EXPECT_EQ(x.row<float>(0)[kDim + 79], 1);
  EXPECT_EQ(std::count(x.as<float>(), x.as<float>() + x.elements(), 0.0f), x.elements() - 7);
}

TEST_P(VisionOps, SegmentAttention) {
  for (const std::int64_t dim : {1, 7, 16, 33, 80}) {
    for (const std::int64_t heads : {1, 3}) {
      const std::vector<std::int32_t> offsets = {0, 1, 1, 40, 173};  // one is empty
      const std::int64_t rows = offsets.back(), width = heads * dim;
      // What bfloat16 holds, so that only the probabilities are rounded.
      const Tensor q = arena_.random_bf16({rows, width}, 2),
                   k = arena_.random_bf16({rows, width}, 2);
      const Tensor v = arena_.random_bf16({rows, width});
      const Tensor expected = attend(*reference_, q, k, v, offsets, dim);
      const Tensor bound = attend(*reference_, q, k, absolute(arena_, v), offsets, dim);
      // Scores of up to 4 dim * 0.3 become relative errors of the probabilities.
      const double error = kBf16 + static_cast<double>(rows + 8 + 4 * dim * dim) * kF32;
      expect_near(attend(*backend_, q, k, v, offsets, dim), expected,
                  on("segment_attention, {} heads of {}", heads, dim),
                  [&](std::int64_t i) { return error * bound.as<float>()[i] + kTiny; });
    }
  }
}

// Longer than one run's scores and than the columns that the dot kernel takes at a time.
TEST_P(VisionOps, SegmentAttentionOfALongSegment) {
  const std::int64_t rows = 2100, dim = 16;
  const Tensor q = arena_.random_bf16({rows, dim}), k = arena_.random_bf16({rows, dim});
  const Tensor v = arena_.random_bf16({rows, dim});
  const std::vector<std::int32_t> offsets = {0, 2100};
  const Tensor expected = attend(*reference_, q, k, v, offsets, dim);
  const Tensor bound = attend(*reference_, q, k, absolute(arena_, v), offsets, dim);
  const double error = kBf16 + static_cast<double>(rows) * kF32;
  expect_near(attend(*backend_, q, k, v, offsets, dim), expected,
              on("segment_attention of {} rows", rows),
              [&](std::int64_t i) { return error * bound.as<float>()[i] + kTiny; });
}

TEST_P(VisionOps, SegmentsKnowNothingOfEachOther) {
  const std::int64_t dim = 24, width = 2 * dim, rows = 130;
  const Tensor q = arena_.random({rows, width}), k = arena_.random({rows, width});
  const Tensor v = arena_.random({rows, width});
  const Tensor together = attend(*backend_, q, k, v, {0, 50, 130}, dim);
  const auto alone = [&](std::int64_t begin, std::int64_t end) {
    return attend(*backend_, q.rows(begin, end), k.rows(begin, end), v.rows(begin, end),
                  {0, static_cast<std::int32_t>(end - begin)}, dim);
  };
  expect_same(together.rows(0, 50), alone(0, 50), on("first segment"));
  expect_same(together.rows(50, rows), alone(50, rows), on("second segment"));
  ThreadPool one(1), three(3);
  for (ThreadPool* pool : {&one, &three}) {
    const auto other = make(GetParam(), *pool);
    expect_same(attend(*other, q, k, v, {0, 50, 130}, dim), together, on("other threads"));
  }
}

}  // namespace
}  // namespace m3
