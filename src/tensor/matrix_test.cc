#include "tensor/matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace m3 {
namespace {

// Room for a matrix of a format; values are written through its codec.
struct Stored {
  Stored(const Codec& codec, std::int64_t rows, std::int64_t cols)
      : values(static_cast<std::size_t>(rows * value_row_bytes(codec, cols))),
        scales(static_cast<std::size_t>(rows * scale_row_bytes(codec, cols))) {
    matrix.codec = &codec;
    matrix.values = Tensor(values.data(), codec.values_dtype, {rows, values_cols(codec, cols)});
    if (!scales.empty())
      matrix.scales = Tensor(scales.data(), codec.scales_dtype, {rows, scale_cols(codec, cols)});
    matrix.rows = rows;
    matrix.cols = cols;
  }
  void write_row(std::int64_t row, const std::vector<float>& x) {
    const Codec& codec = *matrix.codec;
    codec.encode(x.data(), matrix.cols, matrix.scale,
                 values.data() + row * value_row_bytes(codec, matrix.cols),
                 scales.data() + row * scale_row_bytes(codec, matrix.cols));
  }
  std::vector<float> read_row(std::int64_t row) const {
    std::vector<float> x(static_cast<std::size_t>(matrix.cols));
    matrix.codec->decode(matrix, row, 0, matrix.cols, x.data());
    return x;
  }
  std::vector<std::byte> values, scales;
  Matrix matrix;
};

TEST(Codecs, ExactValuesComeBackExactly) {
  // Four of these fit every format, also in a last block that is not whole. int8's scale must be
  // 1: a power of two from a largest magnitude of 127.
  for (const Codec* codec : codecs()) {
    Stored stored(*codec, 2, 38);
    std::vector<float> row(38);
    const std::vector<float> some = {0, 1, -2, 4, -6, 3, 0.5f};
    for (std::size_t k = 0; k < row.size(); ++k) {
      row[k] = some[k % some.size()];
      if (codec->format == Format::kInt8) row[k] = k % 32 == 3 ? 127.0f : row[k] * 2;
    }
    stored.write_row(1, row);
    EXPECT_EQ(stored.read_row(1), row) << codec->name;
    EXPECT_EQ(stored.read_row(0), std::vector<float>(38, 0.0f)) << codec->name;
    std::vector<float> part(10);
    codec->decode(stored.matrix, 1, 28, 38, part.data());
    EXPECT_EQ(part, std::vector<float>(row.begin() + 28, row.end())) << codec->name;
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
    stored.scales[0] = static_cast<std::byte>(scale);
    return stored.read_row(0)[3];
  };
  EXPECT_EQ(value(0x38, 127), 1.0f);
  EXPECT_EQ(value(0x38, 128), 2.0f);
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
  stored.scales[3 + 2] = std::byte{255};  // row 1, the third block
  const Status status = stored.matrix.codec->check(stored.matrix);
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("[1, 2]"), std::string::npos) << status.error().message;
}

void expect_damaged(const Stored& stored, std::initializer_list<const char*> parts) {
  const Status status = stored.matrix.codec->check(stored.matrix);
  ASSERT_FALSE(status);
  for (const char* part : parts)
    EXPECT_NE(status.error().message.find(part), std::string::npos) << status.error().message;
}

// A row of zeros but for some of its first values.
std::vector<float> row_of(std::vector<float> first, std::size_t cols = 32) {
  first.resize(cols);
  return first;
}

TEST(Mxfp4, BytesHoldTheEvenColumnLow) {
  Stored stored(codec_of(Format::kMxfp4), 1, 64);
  stored.values[0] = std::byte{0x71};   // columns 0 and 1: 0.5 and 6
  stored.values[15] = std::byte{0xF8};  // columns 30 and 31: -0 and -6
  stored.values[16] = std::byte{0x2B};  // columns 32 and 33: -1.5 and 1
  stored.scales[0] = std::byte{127};
  stored.scales[1] = std::byte{129};
  const auto row = stored.read_row(0);
  EXPECT_EQ(row[0], 0.5f);
  EXPECT_EQ(row[1], 6);
  EXPECT_EQ(row[2], 0);
  EXPECT_EQ(row[30], 0);
  EXPECT_TRUE(std::signbit(row[30]));
  EXPECT_EQ(row[31], -6);
  EXPECT_EQ(row[32], -6);
  EXPECT_EQ(row[33], 4);
}

TEST(Mxfp4, TheExponentOfLeastError) {
  Stored stored(codec_of(Format::kMxfp4), 1, 32);
  const auto scale = [&](std::vector<float> first) {
    stored.write_row(0, row_of(std::move(first)));
    return static_cast<int>(stored.scales[0]);
  };
  EXPECT_EQ(scale({6}), 127);
  EXPECT_EQ(scale({-4}), 127);
  EXPECT_EQ(scale({3.9f}), 127);        // 4, nearer than 6 / 2
  EXPECT_EQ(scale({7}), 127);           // 6 or 8, equally far: the smaller exponent
  EXPECT_EQ(scale({7.5f}), 128);        // 8
  std::vector<float> halves(10, 0.5f);  // with 8, each of these becomes 0
  halves[0] = 7.5f;
  EXPECT_EQ(scale(halves), 127);
  EXPECT_EQ(scale({0}), 0);
  EXPECT_EQ(scale({std::ldexp(6.0f, -127)}), 0);
  EXPECT_EQ(scale({std::ldexp(1.0f, -149)}), 0);
  EXPECT_EQ(scale({std::numeric_limits<float>::max()}), 253);
}

TEST(Mxfp4, ANanScaleIsNamed) {
  Stored stored(codec_of(Format::kMxfp4), 3, 70);
  EXPECT_TRUE(stored.matrix.codec->check(stored.matrix));
  stored.scales[3 + 2] = std::byte{255};
  expect_damaged(stored, {"[1, 2]", "NaN"});
}

// spec: text-model §9.4.
TEST(Nvfp4, WorkedExamples) {
  Stored stored(codec_of(Format::kNvfp4), 1, 32);
  stored.values[0] = std::byte{0xA3};
  stored.scales[0] = std::byte{0x48};
  stored.matrix.scale = 0.01f;
  EXPECT_EQ(stored.read_row(0)[0], 6 * 0.01f);
  EXPECT_EQ(stored.read_row(0)[1], -4 * 0.01f);
  stored.values[8] = std::byte{0xE7};  // columns 16 and 17: 6 and -4
  stored.scales[1] = std::byte{0x3C};  // 1.5
  stored.matrix.scale = 0.25f;
  EXPECT_EQ(stored.read_row(0)[16], 2.25f);
  EXPECT_EQ(stored.read_row(0)[17], -1.5f);
  // Every product of both is exact in bfloat16; with the factor it is rounded once, to float32.
  stored.matrix.scale = 0.1f;
  for (int value = 0; value < 16; ++value)
    for (int scale = 0; scale < 256; ++scale) {
      if ((scale & 0x7F) == 0x7F) continue;
      stored.values[8] = static_cast<std::byte>(value);
      stored.scales[1] = static_cast<std::byte>(scale);
      const float product = e2m1_to_float(static_cast<std::uint8_t>(value)) *
                            e4m3_to_float(static_cast<std::uint8_t>(scale));
      EXPECT_EQ(round_to_bf16(product), product);
      EXPECT_EQ(stored.read_row(0)[16], product * 0.1f);
    }
}

TEST(Nvfp4, ScalesOfTwoLevels) {
  const Codec& codec = codec_of(Format::kNvfp4);
  Stored stored(codec, 1, 48);
  EXPECT_EQ(codec.whole_scale(0), 1);
  EXPECT_EQ(codec.whole_scale(2688), 1);
  stored.matrix.scale = codec.whole_scale(2688);
  std::vector<float> row(48, 0.0f);
  row[5] = -2688;  // 6 * 448
  row[20] = 9;     // 6 * 1.5
  row[21] = 1.5f;
  stored.write_row(0, row);
  EXPECT_EQ(stored.scales[0], std::byte{0x7E});
  EXPECT_EQ(stored.scales[1], std::byte{0x3C});
  EXPECT_EQ(stored.scales[2], std::byte{0});
  EXPECT_EQ(stored.read_row(0), row);
  // Never NaN, whatever the magnitudes.
  for (const float largest : {1e-45f, 1e-38f, 1e-30f, 1.0f, 3e38f}) {
    stored.matrix.scale = codec.whole_scale(largest);
    row[5] = largest;
    row[20] = largest / 1000;
    row[21] = 0;
    stored.write_row(0, row);
    EXPECT_TRUE(codec.check(stored.matrix)) << largest;
    for (const float x : stored.read_row(0)) EXPECT_TRUE(std::isfinite(x)) << largest;
  }
}

TEST(Nvfp4, NanScalesAndOddFactorsAreNamed) {
  Stored stored(codec_of(Format::kNvfp4), 3, 40);
  EXPECT_TRUE(stored.matrix.codec->check(stored.matrix));
  for (const int nan : {0x7F, 0xFF}) {
    stored.scales[3 + 2] = static_cast<std::byte>(nan);
    expect_damaged(stored, {"[1, 2]", "NaN"});
  }
  stored.scales[3 + 2] = std::byte{0};
  for (const float factor : {0.0f, -1.0f, INFINITY, NAN}) {
    stored.matrix.scale = factor;
    expect_damaged(stored, {"factor", "positive"});
  }
}

TEST(Int8, WorkedExamples) {
  Stored stored(codec_of(Format::kInt8), 1, 40);
  const auto write = [&](std::vector<float> first) {
    stored.write_row(0, row_of(std::move(first), 40));
    return stored.read_row(0);
  };
  EXPECT_EQ(write({127, -1, 0.5f, 1.5f, -127}), row_of({127, -1, 0, 2, -127}, 40));
  EXPECT_EQ(stored.scales[0], std::byte{0x00});  // 1 in float16
  EXPECT_EQ(stored.scales[1], std::byte{0x3C});
  // The scale is rounded before the values are: 1/127 is 0x2008 = 0.00787353515625 in float16.
  EXPECT_EQ(write({1, 0.5f})[0], 127 * 0.00787353515625f);
  EXPECT_EQ(stored.values[0], std::byte{127});
  EXPECT_EQ(stored.values[1], std::byte{64});
  EXPECT_EQ(write({1e-30f}), row_of({}, 40));
  EXPECT_EQ(write({3e38f})[0], 127 * 65504.0f);
}

TEST(Int8, AScaleThatIsNotFiniteIsNamed) {
  Stored stored(codec_of(Format::kInt8), 3, 70);
  EXPECT_TRUE(stored.matrix.codec->check(stored.matrix));
  for (const int high : {0x7C, 0xFC, 0x7E}) {
    stored.scales[2 * (3 + 2) + 1] = static_cast<std::byte>(high);
    expect_damaged(stored, {"[1, 2]", "finite"});
  }
}

// No format is worse than half a step of its largest block value.
TEST(Codecs, ErrorsAreWhatTheFormatPromises) {
  for (const auto& [format, error] : {std::pair{Format::kMxfp8, 1.0 / 16},
                                      {Format::kMxfp4, 1.0 / 3},
                                      {Format::kNvfp4, 0.2},
                                      {Format::kInt8, 0.5 / 126}}) {
    const Codec& codec = codec_of(format);
    Stored stored(codec, 1, 160);
    std::vector<float> row(160);
    std::uint32_t state = 1;
    for (float& x : row) {
      state = state * 1664525u + 1013904223u;
      x = static_cast<float>(state >> 8) * 0x1p-23f - 1;
    }
    if (codec.whole_scale != nullptr) stored.matrix.scale = codec.whole_scale(1);
    stored.write_row(0, row);
    const auto back = stored.read_row(0);
    for (std::size_t k = 0; k < row.size(); ++k) EXPECT_NEAR(back[k], row[k], error) << codec.name;
  }
}

TEST(Codecs, PackedFormatsNeedWholeBytes) {
  for (const Codec* codec : codecs()) {
    const bool four_bits = codec->format == Format::kMxfp4 || codec->format == Format::kNvfp4;
    EXPECT_EQ(fits(*codec, 33), !four_bits) << codec->name;
    EXPECT_TRUE(fits(*codec, 34));
    EXPECT_EQ(value_row_bytes(*codec, 34), four_bits ? 17 : 34 * dtype_size(codec->values_dtype));
  }
}

TEST(Codecs, AreFoundByNameAndByType) {
  EXPECT_EQ((*codec_named("mxfp8"))->format, Format::kMxfp8);
  const auto unknown = codec_named("int3");
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("bf16"), std::string::npos);
  EXPECT_EQ(codec_for(DType::kF8E4M3, DType::kU8)->format, Format::kMxfp8);
  EXPECT_EQ(codec_for(DType::kF8E4M3, DType::kF8E8M0)->format, Format::kMxfp8);
  EXPECT_EQ(codec_for(DType::kF8E4M3, std::nullopt), nullptr);
  EXPECT_EQ(codec_for(DType::kBF16, std::nullopt)->format, Format::kBF16);
  EXPECT_EQ(codec_for(DType::kBF16, DType::kU8), nullptr);
  EXPECT_EQ(codec_for(DType::kU8, DType::kF8E8M0)->format, Format::kMxfp4);
  EXPECT_EQ(codec_for(DType::kU8, DType::kF8E4M3)->format, Format::kNvfp4);
  EXPECT_EQ(codec_for(DType::kI8, DType::kF16)->format, Format::kInt8);
}

}  // namespace
}  // namespace m3
