#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <vector>

#include "tensor/layout.h"

namespace m3 {
namespace {

TEST(Tensor, ViewsOfABuffer) {
  const Buffer buffer(4 * 6 * 4);
  const Tensor t = buffer.tensor(DType::kF32, {4, 2, 3});
  EXPECT_EQ(t.elements(), 24);
  EXPECT_EQ(t.row_elements(), 6);
  EXPECT_EQ(t.bytes(), 96);
  EXPECT_EQ(t.describe(), "F32 [4, 2, 3]");
  t.row<float>(2)[1] = 5;
  const Tensor part = t.rows(2, 4);
  EXPECT_EQ(part.dim(0), 2);
  EXPECT_EQ(part.as<float>()[1], 5);
  EXPECT_EQ(t.reshape({8, 3}).row<float>(4)[1], 5);
}

TEST(Tensor, EmptyOnes) {
  EXPECT_FALSE(Tensor());
  EXPECT_EQ(Tensor().elements(), 0);
  EXPECT_EQ(Tensor(nullptr, DType::kF32, {0, 5}).elements(), 0);
  EXPECT_EQ(Buffer().bytes(), 0);
}

TEST(Buffer, MovesAndReportsWhatTheSystemRefuses) {
  Buffer a(100);
  std::byte* data = a.data();
  EXPECT_EQ(data[99], std::byte{0});
  const Buffer b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_FALSE(Buffer::allocate(std::int64_t{1} << 60));
}

TEST(TensorDeathTest, OurMistakesStopTheProgram) {
  const Buffer buffer(16);
  const Tensor t = buffer.tensor(DType::kF32, {4});
  EXPECT_DEATH(t.as<std::int32_t>(), "F32 read as I32");
  EXPECT_DEATH(t.rows(3, 5), "rows");
  EXPECT_DEATH(buffer.tensor(DType::kF32, {5}), "does not fit");
}

TEST(Layout, NarrowsTensorsWhereTheyLie) {
  Tensor a, b;
  const auto of_rows = [&](std::int64_t rows) {
    return std::vector<Placement>{{&a, DType::kF32, {rows, 3}}, {&b, DType::kI32, {rows}}};
  };
  const Buffer buffer = lay_out(of_rows(8));
  const void *at_a = a.data, *at_b = b.data;
  narrow(of_rows(2));
  EXPECT_EQ(a.dim(0), 2);
  EXPECT_EQ(b.elements(), 2);
  EXPECT_EQ(a.data, at_a);
  EXPECT_EQ(b.data, at_b);
  EXPECT_DEATH(narrow(of_rows(3)), "of");
}

TEST(DType, NamesAndSizes) {
  for (const char* name : {"F32", "BF16", "F16", "F8_E4M3", "F8_E8M0", "U8", "I32", "I64"})
    EXPECT_EQ(dtype_name(*dtype_named(name)), name);
  EXPECT_FALSE(dtype_named("F4"));
  EXPECT_EQ(dtype_size(DType::kI64), 8);
}

}  // namespace
}  // namespace m3
