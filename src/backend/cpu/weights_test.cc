// Weights that are not bfloat16 give exactly what their values rounded to bfloat16 would give.
#include <gtest/gtest.h>

#include <cstring>

#include "backend/cpu/kernels_testing.h"
#include "tensor/codecs.h"
#include "tensor/numeric.h"

namespace m3::cpu {
namespace {

class WeightKernels : public IsaTest {};
M3_TEST_EVERY_ISA(WeightKernels);

std::uint16_t exact_bits(std::uint8_t value, std::uint8_t scale) {
  return to_bf16(e4m3_to_float(value) * e8m0_to_float(scale)).bits;
}

bool is_nan(std::uint16_t bits) {
  return (bits & 0x7fff) > 0x7f80;
}

// Every byte with every scale, also those whose products bfloat16 cannot hold: rows of 256 bytes,
// eight scale blocks of one scale.
TEST_P(WeightKernels, EveryE4m3ByteWithEveryScale) {
  std::vector<std::uint8_t> values(256), scales(8);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<std::uint8_t>(i * 37);  // mixes ordinary bytes with the others
  for (int scale = 0; scale < 255; ++scale) {
    std::fill(scales.begin(), scales.end(), static_cast<std::uint8_t>(scale));
    std::vector<std::uint16_t> out(256);
    kernels_.decode({WeightFormat::kMxfp8, values.data(), scales.data()}, 1, 256, 0, 256,
                    out.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::uint16_t expected = exact_bits(values[i], static_cast<std::uint8_t>(scale));
      if (is_nan(expected)) {
        EXPECT_TRUE(is_nan(out[i])) << int{values[i]} << " x " << scale;
      } else {
        EXPECT_EQ(out[i], expected) << int{values[i]} << " x " << scale;
        if (scale >= 10 && scale <= 246) {
          EXPECT_EQ(to_float({out[i]}),
                    e4m3_to_float(values[i]) * e8m0_to_float(static_cast<std::uint8_t>(scale)));
        }
      }
    }
  }
}

// Only ordinary bytes, in rows of every length: the vector path and all its tails.
TEST_P(WeightKernels, E4m3RowsOfEveryLength) {
  for (std::int64_t k = 1; k <= 300; k += k < 70 ? 1 : 13) {
    const std::int64_t blocks = (k + 31) / 32;
    std::vector<std::uint8_t> values(static_cast<std::size_t>(2 * k));
    std::vector<std::uint8_t> scales(static_cast<std::size_t>(2 * blocks));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<std::uint8_t>((8 + i * 5 % 119) | (i % 3 == 0 ? 0x80 : 0));
    for (std::size_t i = 0; i < scales.size(); ++i)
      scales[i] = static_cast<std::uint8_t>(110 + i % 30);
    std::vector<std::uint16_t> out(static_cast<std::size_t>(2 * k));
    kernels_.decode({WeightFormat::kMxfp8, values.data(), scales.data()}, 2, k, 0, k, out.data());
    for (std::int64_t n = 0; n < 2; ++n)
      for (std::int64_t i = 0; i < k; ++i) {
        const auto at = static_cast<std::size_t>(n * k + i);
        EXPECT_EQ(out[at],
                  exact_bits(values[at], scales[static_cast<std::size_t>(n * blocks + i / 32)]))
            << i << " of " << k;
      }
  }
}

TEST_P(WeightKernels, F16RoundsLikeTheCodec) {
  std::vector<std::uint16_t> values(65536);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint16_t>(i);
  std::vector<std::uint16_t> out(values.size());
  kernels_.decode({WeightFormat::kF16, values.data(), nullptr}, 1, 65536, 0, 65536, out.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t expected = to_bf16(f16_to_float(values[i])).bits;
    EXPECT_TRUE(out[i] == expected || (is_nan(out[i]) && is_nan(expected))) << i;
  }
}

// A weight in some format and the same values in bfloat16.
struct Twins {
  Twins(const Codec& codec, std::int64_t outputs, std::int64_t k, bool with_oddities)
      : stored(static_cast<std::size_t>(outputs * m3::value_row_bytes(codec, k))),
        scales(static_cast<std::size_t>(outputs * m3::scale_row_bytes(codec, k))),
        bf16(static_cast<std::size_t>(outputs * k * 2)) {
    std::vector<float> row(static_cast<std::size_t>(k));
    Matrix w{&codec, {stored.data(), codec.values_dtype, {outputs, values_cols(codec, k)}}, {}};
    w.rows = outputs;
    w.cols = k;
    if (!scales.empty())
      w.scales = {scales.data(), codec.scales_dtype, {outputs, scale_cols(codec, k)}};
    for (std::int64_t n = 0; n < outputs; ++n) {
      for (float& v : row) v = next();
      codec.encode(row.data(), k, /*factor=*/1.0f / 2688,
                   stored.data() + n * m3::value_row_bytes(codec, k),
                   scales.data() + n * m3::scale_row_bytes(codec, k));
    }
    if (with_oddities) {
      stored[1] = std::byte{0x03};                                // subnormal
      stored[static_cast<std::size_t>(k - 1)] = std::byte{0x80};  // -0
      if (outputs > 5) scales[5 * static_cast<std::size_t>(scale_cols(codec, k))] = 7;
    }
    for (std::int64_t n = 0; n < outputs; ++n) {
      codec.decode(w, n, 0, k, row.data());
      for (std::int64_t i = 0; i < k; ++i) {
        const BF16 bits = to_bf16(row[static_cast<std::size_t>(i)]);
        std::memcpy(bf16.data() + (n * k + i) * 2, &bits, 2);
      }
    }
  }
  float next() {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }

  std::uint32_t state = 7;
  std::vector<std::byte> stored;
  std::vector<std::uint8_t> scales;  // as bytes
  std::vector<std::byte> bf16;
};

std::vector<float> multiply(const Kernels& kernels, const WeightRows& w, std::int64_t rows,
                            std::int64_t outputs, std::int64_t k) {
  Buffer scratch(kDotScratchBytes);
  std::vector<float> x(static_cast<std::size_t>(rows * k));
  std::uint32_t state = 3;
  for (float& v : x) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }
  const PackedForKernel packed(kernels, XForm::kDot, x.data(), rows, k);
  std::vector<float> out(static_cast<std::size_t>(rows * outputs));
  kernels.dot({.x = packed.pointers(),
               .rows = rows,
               .w = w,
               .outputs = outputs,
               .k = k,
               .out = out.data(),
               .out_stride = outputs,
               .scratch = scratch.data()});
  return out;
}

// Every nibble with every scale, in rows of every length and from every block on.
TEST_P(WeightKernels, FourBitRowsAreExact) {
  for (const auto& [codec, format] :
       {std::pair{&kMxfp4Codec, WeightFormat::kMxfp4}, {&kNvfp4Codec, WeightFormat::kNvfp4}}) {
    for (const std::int64_t k : {2, 14, 30, 32, 48, 62, 66, 100, 257 * 32}) {
      std::vector<std::uint8_t> values(static_cast<std::size_t>(k));  // two rows
      std::vector<std::uint8_t> scales(static_cast<std::size_t>(2 * scale_cols(*codec, k)));
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<std::uint8_t>(i * 37 + i / 16);
      for (std::size_t i = 0; i < scales.size(); ++i)
        scales[i] = static_cast<std::uint8_t>(i % 255 + (k < 100 ? 120 : 0));
      Matrix w{codec, {values.data(), DType::kU8, {2, k / 2}}, {}, 2, k};
      w.scales = {scales.data(), codec->scales_dtype, {2, scale_cols(*codec, k)}};
      for (std::int64_t begin = 0; begin < k; begin += begin < 64 ? 32 : 1024) {
        const std::int64_t end = std::min(k, begin + 2000);
        std::vector<std::uint16_t> out(static_cast<std::size_t>(2 * (end - begin)));
        kernels_.decode({format, values.data(), scales.data()}, 2, k, begin, end, out.data());
        std::vector<float> exact(static_cast<std::size_t>(end - begin));
        for (std::int64_t n = 0; n < 2; ++n) {
          codec->decode(w, n, begin, end, exact.data());
          for (std::size_t i = 0; i < exact.size(); ++i) {
            const std::uint16_t bits = out[static_cast<std::size_t>(n) * exact.size() + i];
            EXPECT_TRUE(bits == to_bf16(exact[i]).bits || (is_nan(bits) && std::isnan(exact[i])))
                << codec->name << " column " << begin + static_cast<std::int64_t>(i) << " of " << k;
          }
        }
      }
    }
  }
}

// Every byte with scales of all kinds: what the codec says, rounded to bfloat16.
TEST_P(WeightKernels, Int8RoundsLikeTheCodec) {
  const std::int64_t k = 256;
  std::vector<std::uint8_t> values(256);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint8_t>(i);
  std::vector<std::uint16_t> scales(8), out(256);
  for (std::uint32_t bits = 0; bits < 0x7C00; bits += 37) {
    std::fill(scales.begin(), scales.end(), static_cast<std::uint16_t>(bits));
    kernels_.decode(
        {WeightFormat::kInt8, values.data(), reinterpret_cast<const std::uint8_t*>(scales.data())},
        1, k, 0, k, out.data());
    for (std::size_t i = 0; i < values.size(); ++i)
      EXPECT_EQ(out[i], to_bf16(static_cast<float>(static_cast<std::int8_t>(values[i])) *
                                f16_to_float(static_cast<std::uint16_t>(bits)))
                            .bits);
  }
}

TEST_P(WeightKernels, EveryFormatGivesWhatItsBF16TwinGives) {
  const std::pair<const Codec*, WeightFormat> formats[] = {
      {&kMxfp8Codec, WeightFormat::kMxfp8}, {&kF16Codec, WeightFormat::kF16},
      {&kF32Codec, WeightFormat::kF32},     {&kMxfp4Codec, WeightFormat::kMxfp4},
      {&kNvfp4Codec, WeightFormat::kNvfp4}, {&kInt8Codec, WeightFormat::kInt8}};
  for (const auto& [codec, format] : formats) {
    for (std::int64_t k : {7, 14, 64, 100, 2048, 2600, 6144}) {
      if (!fits(*codec, k)) continue;
      for (std::int64_t outputs : {1, 6, 33}) {
        const bool with_oddities = format == WeightFormat::kMxfp8 && k != 2600;
        const Twins twins(*codec, outputs, k, with_oddities);
        for (std::int64_t rows : {1, 2, 3, 4, 6, 13}) {
          const WeightRows own{format, twins.stored.data(),
                               twins.scales.empty() ? nullptr : twins.scales.data(), 0.3f};
          const WeightRows twin{WeightFormat::kBF16, twins.bf16.data(), nullptr, 0.3f};
          EXPECT_EQ(multiply(kernels_, own, rows, outputs, k),
                    multiply(kernels_, twin, rows, outputs, k))
              << codec->name << " " << rows << " x " << outputs << " x " << k;
        }
      }
    }
  }
}

TEST_P(WeightKernels, ARowDoesNotDependOnItsNeighbours) {
  for (std::int64_t k : {40, 2600, 6144}) {
    const std::int64_t outputs = 127, rows = 45;
    const Twins twins(kMxfp8Codec, outputs, k, /*with_oddities=*/false);
    const WeightRows w{WeightFormat::kBF16, twins.bf16.data()};
    const std::vector<float> all = multiply(kernels_, w, rows, outputs, k);
    for (std::int64_t part : {1, 2, 4, 5, 7, 12, 44}) {
      const std::vector<float> some = multiply(kernels_, w, part, outputs, k);
      EXPECT_EQ(std::memcmp(some.data(), all.data(), some.size() * 4), 0) << part << " x " << k;
    }
  }
}

}  // namespace
}  // namespace m3::cpu
