// The kernels that attention is made of, at every number of rows and columns.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "backend/cpu/kernels_testing.h"
#include "base/random.h"
#include "tensor/numeric.h"

namespace m3::cpu {
namespace {

class PairKernels : public IsaTest {};
M3_TEST_EVERY_ISA(PairKernels);

float random_value(std::uint64_t stream, std::int64_t i) {
  return static_cast<float>(2 * uniform_at(5, stream, static_cast<std::uint64_t>(i)) - 1);
}

std::vector<std::uint16_t> random_bf16(std::uint64_t stream, std::int64_t n) {
  std::vector<std::uint16_t> x(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i)
    x[static_cast<std::size_t>(i)] = to_bf16(random_value(stream, i)).bits;
  return x;
}

struct PairsShape {
  std::int64_t rows, columns, pairs;
};

// A product with room to spare around every array, and what it is by the definition.
struct PairsCase {
  explicit PairsCase(const PairsShape& s)
      : shape(s),
        x(random_bf16(1, s.rows * x_stride())),
        y(random_bf16(2, s.pairs * y_stride())),
        before(static_cast<std::size_t>(s.rows * out_stride())) {
    for (std::int64_t i = 0; i < std::ssize(before); ++i)
      before[static_cast<std::size_t>(i)] = random_value(3, i);
  }
  std::int64_t x_stride() const { return 2 * shape.pairs + 6; }
  std::int64_t y_stride() const { return 2 * shape.columns + 32; }
  std::int64_t out_stride() const { return shape.columns + 5; }

  std::vector<float> run(const Kernels& kernels, bool adds) const {
    std::vector<float> out = before;
    kernels.multiply_pairs({.x = x.data(),
                            .x_stride = x_stride(),
                            .rows = shape.rows,
                            .y = y.data(),
                            .y_stride = y_stride(),
                            .columns = shape.columns,
                            .pairs = shape.pairs,
                            .out = out.data(),
                            .out_stride = out_stride(),
                            .adds = adds});
    return out;
  }
  double exact(std::int64_t row, std::int64_t column, bool adds) const {
    double sum = adds ? before[static_cast<std::size_t>(row * out_stride() + column)] : 0;
    for (std::int64_t k = 0; k < 2 * shape.pairs; ++k) {
      const std::int64_t at = k / 2 * y_stride() + 2 * column + k % 2;
      sum +=
          static_cast<double>(to_float(BF16{x[static_cast<std::size_t>(row * x_stride() + k)]})) *
          to_float(BF16{y[static_cast<std::size_t>(at)]});
    }
    return sum;
  }

  PairsShape shape;
  std::vector<std::uint16_t> x, y;
  std::vector<float> before;
};

TEST_P(PairKernels, MultiplyAsTheDefinitionAtEveryShape) {
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 15, 16, 17, 32, 40})
    for (const std::int64_t columns : {16, 32, 48, 64, 80, 112})
      for (const std::int64_t pairs : {1, 5, 16, 40, 64, 150}) {
        // Float32 sums of products of less than one.
        const double tolerance = 2e-7 * static_cast<double>(2 * pairs + 1);
        const PairsCase c({rows, columns, pairs});
        for (const bool adds : {false, true}) {
          const std::vector<float> out = c.run(kernels_, adds);
          for (std::int64_t i = 0; i < std::ssize(out); ++i) {
            const std::int64_t row = i / c.out_stride(), column = i % c.out_stride();
            const float actual = out[static_cast<std::size_t>(i)];
            if (column >= columns)
              ASSERT_EQ(actual, c.before[static_cast<std::size_t>(i)]) << "written beyond the end";
            else
              ASSERT_NEAR(actual, c.exact(row, column, adds), tolerance)
                  << rows << " x " << columns << " x " << 2 * pairs << " at " << i;
          }
        }
      }
}

TEST_P(PairKernels, RowsKnowNothingOfTheirNumber) {
  const PairsCase all({37, 112, 40});
  const std::vector<float> whole = all.run(kernels_, false);
  for (std::int64_t rows = 1; rows < 37; ++rows) {
    PairsCase some = all;
    some.shape.rows = rows;
    const std::vector<float> part = some.run(kernels_, false);
    for (std::int64_t i = 0; i < rows * all.out_stride(); ++i) {
      if (i % all.out_stride() >= 112) continue;
      ASSERT_EQ(part[static_cast<std::size_t>(i)], whole[static_cast<std::size_t>(i)]) << rows;
    }
  }
}

// Pieces of 3, 16 and 40 scores; whole, and the sum of their parts.
TEST_P(PairKernels, SoftmaxOfPiecesIsThatOfTheWhole) {
  constexpr std::int64_t kRows = 3, kTokens = 59, kStride = 64;
  const float scale = 2.5f, infinity = std::numeric_limits<float>::infinity();
  std::vector<float> s(kRows * kStride);
  for (std::int64_t i = 0; i < std::ssize(s); ++i)
    s[static_cast<std::size_t>(i)] = 3 * random_value(4, i);
  std::vector<float> m(kRows, -infinity), l(kRows), factor(kRows);
  std::vector<std::vector<double>> weights(kRows);
  std::int64_t first = 0;
  for (const std::int64_t tokens : {3, 16, 40}) {
    std::vector<std::uint16_t> p(kRows * 48, 0x3f80);
    kernels_.softmax_piece({.s = s.data() + first,
                            .s_stride = kStride,
                            .rows = kRows,
                            .tokens = tokens,
                            .scale = scale,
                            .m = m.data(),
                            .l = l.data(),
                            .factor = factor.data(),
                            .p = p.data(),
                            .p_stride = 48});
    for (std::size_t r = 0; r < kRows; ++r) {
      for (double& weight : weights[r]) weight *= factor[r];
      for (std::size_t t = 0; t < 48; ++t) {
        const float weight = to_float(BF16{p[r * 48 + t]});
        if (t < static_cast<std::size_t>(tokens))
          weights[r].push_back(weight);
        else
          ASSERT_EQ(weight, 0) << "beyond the tokens";
      }
    }
    first += tokens;
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    const float* row = s.data() + r * kStride;
    const float largest = scale * *std::max_element(row, row + kTokens);
    const double sum = std::accumulate(weights[r].begin(), weights[r].end(), 0.0);
    EXPECT_EQ(m[r], largest);
    EXPECT_NEAR(l[r], sum, 1e-5 * sum);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const double exact = std::exp(double{scale} * row[t] - largest);
      EXPECT_NEAR(weights[r][static_cast<std::size_t>(t)], exact, 0x1p-8 * exact + 1e-30) << t;
    }
  }
}

TEST_P(PairKernels, SoftmaxOfANanIsNan) {
  std::vector<float> s{1, 2, std::numeric_limits<float>::quiet_NaN(), 1};
  std::vector<std::uint16_t> p(16);
  float m = 0, l = 1, factor = 0;
  kernels_.softmax_piece({.s = s.data(),
                          .s_stride = 4,
                          .rows = 1,
                          .tokens = 4,
                          .m = &m,
                          .l = &l,
                          .factor = &factor,
                          .p = p.data(),
                          .p_stride = 16});
  EXPECT_TRUE(std::isnan(l) && std::isnan(to_float(BF16{p[2]})));
}

// Every number, and any count of them.
TEST_P(PairKernels, WidenE4m3) {
  std::vector<std::uint8_t> x(256);
  for (std::size_t i = 0; i < 256; ++i) x[i] = static_cast<std::uint8_t>(i);
  for (const std::int64_t n : {256, 255, 33, 1}) {
    std::vector<std::uint16_t> wide(257, 0x1234);
    kernels_.widen_e4m3(x.data(), n, wide.data());
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const float expected = e4m3_to_float(x[at]), actual = to_float(BF16{wide[at]});
      if (std::isnan(expected))
        EXPECT_TRUE(std::isnan(actual)) << i;
      else
        EXPECT_EQ(actual, expected) << i;
    }
    EXPECT_EQ(wide[static_cast<std::size_t>(n)], 0x1234) << "written beyond the end";
  }
}

}  // namespace
}  // namespace m3::cpu
