#include "tensor/matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace m3 {
namespace {

// Room for a matrix of a format; values are written through its codec.
struct Stored {
  Stored(const Codec& codec, std::int64_t rows, std::int64_t cols)
      : values(static_cast<std::size_t>(rows * cols * dtype_size(codec.values_dtype))),
        scales(static_cast<std::size_t>(rows * scale_cols(codec, cols))) {
    matrix.codec = &codec;
    matrix.values = Tensor(values.data(), codec.values_dtype, {rows, cols});
    if (!scales.empty())
      matrix.scales = Tensor(scales.data(), DType::kU8, {rows, scale_cols(codec, cols)});
    matrix.rows = rows;
    matrix.cols = cols;
  }
  void write_row(std::int64_t row, const std::vector<float>& x) {
    const std::int64_t row_bytes = matrix.cols * dtype_size(matrix.codec->values_dtype);
    matrix.codec->encode(x.data(), matrix.cols, values.data() + row * row_bytes,
                         scales.data() + row * scale_cols(*matrix.codec, matrix.cols));
  }
  std::vector<float> read_row(std::int64_t row) const {
    std::vector<float> x(static_cast<std::size_t>(matrix.cols));
    matrix.codec->decode(matrix, row, 0, matrix.cols, x.data());
    return x;
  }
  std::vector<std::byte> values;
  std::vector<std::uint8_t> scales;
  Matrix matrix;
};

TEST(Codecs, ExactValuesComeBackExactly) {
  // Small integers times powers of two fit every format, also in a last block that is not whole.
  for (const Codec* codec : codecs()) {
    Stored stored(*codec, 2, 37);
    std::vector<float> row(37);
    for (std::size_t k = 0; k < row.size(); ++k)
      row[k] = static_cast<float>(static_cast<int>(k % 15) - 7) * 0.25f;
    stored.write_row(1, row);
    EXPECT_EQ(stored.read_row(1), row) << codec->name;
    EXPECT_EQ(stored.read_row(0), std::vector<float>(37, 0.0f)) << codec->name;
    std::vector<float> part(10);
    codec->decode(stored.matrix, 1, 27, 37, part.data());
    EXPECT_EQ(part, std::vector<float>(row.begin() + 27, row.end())) << codec->name;
    const Matrix last = matrix_rows(stored.matrix, 1, 2);
    codec->decode(last, 0, 0, 10, part.data());
    EXPECT_EQ(part, std::vector<float>(row.begin(), row.begin() + 10)) << codec->name;
  }
}

// spec: text-model §9.4: (byte, scale) to value.
TEST(Mxfp8, WorkedExamples) {
  Stored stored(codec_of(Format::kMxfp8), 1, 32);
  const auto value = [&](int byte, int scale) {
    stored.values[3] = static_cast<std::byte>(byte);
    stored.scales[0] = static_cast<std::uint8_t>(scale);
    return stored.read_row(0)[3];
  };
  EXPECT_EQ(value(0x38, 127), 1.0f);
  EXPECT_EQ(value(0x3C, 120), 0.01171875f);
  EXPECT_EQ(value(0xFE, 130), -3584.0f);
  EXPECT_EQ(value(0x01, 118), std::ldexp(1.0f, -18));
  EXPECT_EQ(value(0x49, 121), 0.0703125f);
}

TEST(Mxfp8, TheSmallestExponentThatFits) {
  Stored stored(codec_of(Format::kMxfp8), 1, 32);
  const auto scale = [&](float largest) {
    std::vector<float> row(32, 0.0f);
    row[5] = -largest;
    stored.write_row(0, row);
    return static_cast<int>(stored.scales[0]);
  };
  EXPECT_EQ(scale(448), 127);
  EXPECT_EQ(scale(450), 128);
  EXPECT_EQ(scale(10), 122);
  EXPECT_EQ(scale(0), 0);
  EXPECT_EQ(stored.read_row(0), std::vector<float>(32, 0.0f));
}

TEST(Mxfp8, ANanScaleIsNamed) {
  Stored stored(codec_of(Format::kMxfp8), 3, 70);
  EXPECT_TRUE(stored.matrix.codec->check(stored.matrix));
  stored.scales[3 + 2] = 255;  // row 1, the third block
  const Status status = stored.matrix.codec->check(stored.matrix);
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("[1, 2]"), std::string::npos) << status.error().message;
}

TEST(Codecs, AreFoundByNameAndByType) {
  EXPECT_EQ((*codec_named("mxfp8"))->format, Format::kMxfp8);
  const auto unknown = codec_named("int3");
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("bf16"), std::string::npos);
  EXPECT_EQ(codec_for(DType::kF8E4M3, true)->format, Format::kMxfp8);
  EXPECT_EQ(codec_for(DType::kF8E4M3, false), nullptr);
  EXPECT_EQ(codec_for(DType::kBF16, false)->format, Format::kBF16);
}

}  // namespace
}  // namespace m3
