// What only the reference promises: nothing is rounded but what is stored, and wrong shapes abort.
// That its values are right is tested with all backends, in backend/ops_examples_test.cc.
#include "backend/reference/reference_backend.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "backend/reference/ranking.h"

namespace m3 {
namespace {

class ReferenceTest : public testing::Test {
 protected:
  Tensor floats(std::vector<float> values, std::initializer_list<std::int64_t> shape) {
    const Tensor x = storage_.emplace_back(std::ssize(values) * 4).tensor(DType::kF32, shape);
    std::copy(values.begin(), values.end(), x.as<float>());
    return x;
  }
  Linear weight(std::vector<float> values, std::int64_t rows, std::int64_t cols) {
    return {{&codec_of(Format::kF32), floats(std::move(values), {rows, cols}), {}, rows, cols}};
  }

  ThreadPool pool_{2};
  std::unique_ptr<Backend> backend_ = make_reference_backend(pool_);
  std::vector<Buffer> storage_;
};

TEST_F(ReferenceTest, SumsInDouble) {
  const Linear w = weight({1e8f, 1, -1e8f, 1, 1, 1, 1, 1, 1e8f, 0.5f, -1e8f}, 1, 11);
  const Tensor x = floats(std::vector<float>(11, 1.0f), {1, 11});
  const LinearOutput output{&w, floats({0}, {1, 1})};
  backend_->linear(x, {&output, 1});
  EXPECT_EQ(output.out.as<float>()[0], 6.5f);
}

TEST_F(ReferenceTest, RoundsNothingToBfloat16) {
  const float odd = 1 + 0x1p-23f;
  const Linear w = weight({1, odd}, 2, 1);
  const LinearOutput output{&w, floats({0, 0}, {1, 2})};
  backend_->linear(floats({odd}, {1, 1}), {&output, 1});
  EXPECT_EQ(output.out.as<float>()[0], odd);
  EXPECT_EQ(output.out.as<float>()[1], 1 + 0x1p-22f);
  EXPECT_EQ(backend_->cache_format(), (CacheFormat{DType::kF32, DType::kF32, PageOrder::kRows}));
}

TEST_F(ReferenceTest, RanksTiesByIndexAndNanLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  using Ids = std::vector<std::int32_t>;
  EXPECT_EQ(reference::largest(std::vector<float>{1, 2, 2, 2}, 2), (Ids{1, 2}));
  EXPECT_EQ(reference::largest(std::vector<float>{nan, 2, nan, -3}, 2), (Ids{1, 3}));
  EXPECT_EQ(reference::largest(std::vector<float>{-infinity, nan, infinity}, 2), (Ids{0, 2}));
  EXPECT_EQ(reference::largest(std::vector<float>{-0.0f, 0.0f}, 1), (Ids{0}));
  EXPECT_EQ(reference::largest(std::vector<float>{3, 1}, 5), (Ids{0, 1}));
  EXPECT_EQ(reference::largest(std::vector<float>{}, 5), (Ids{}));
}

// An empty call is legal everywhere: a rank may get no rows.
TEST_F(ReferenceTest, NoRows) {
  const Linear w = weight({1, 2}, 2, 1);
  const Tensor none(nullptr, DType::kF32, {0, 1});
  const LinearOutput output{&w, Tensor(nullptr, DType::kF32, {0, 2})};
  backend_->linear(none, {&output, 1});
  backend_->rms_norm(none, floats({0}, {1}), 1e-6f, none);
  backend_->swiglu(none, none, {}, none);
  backend_->concat(none, none, Tensor(nullptr, DType::kF32, {0, 2}));
}

using ReferenceDeathTest = ReferenceTest;

TEST_F(ReferenceDeathTest, WrongArguments) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Linear w = weight({1, 2, 3, 4}, 2, 2);
  const LinearOutput output{&w, floats({0, 0}, {1, 2})};
  EXPECT_DEATH(backend_->linear(floats({1, 2, 3}, {1, 3}), {&output, 1}),
               "linear: weight is \\[2, 2\\], expected \\[2, 3\\]");
  const Tensor x = floats({1, 2}, {1, 2});
  EXPECT_DEATH(backend_->rms_norm(x, floats({1}, {1}), 1e-6f, x),
               "rms_norm: weight is F32 \\[1\\], expected F32 \\[2\\]");
  std::int32_t id = 2;
  EXPECT_DEATH(backend_->embed(w.weight, Tensor(&id, DType::kI32, {1}), x),
               "embed: ids: entry 0 is 2, expected one in \\[-1, 2\\)");
  EXPECT_DEATH(backend_->concat(x, x, x), "concat: out is F32 \\[1, 2\\], expected F32 \\[1, 4\\]");
}

}  // namespace
}  // namespace m3
