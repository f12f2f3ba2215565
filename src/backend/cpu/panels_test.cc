// Weights in panels, on every instruction set: every code of every format says what its codec says,
// and a row's sums do not depend on the rows beside it.
#include "backend/cpu/panels.h"

#include <cmath>
#include <cstring>

#include "backend/cpu/kernels_testing.h"
#include "tensor/codecs.h"
#include "tensor/numeric.h"

namespace m3::cpu {
namespace {

using PanelKernels = IsaTest;
M3_TEST_EVERY_ISA(PanelKernels);

struct PanelCase {
  const Codec* codec;
  WeightFormat format;
};
constexpr PanelCase kCases[] = {{&kMxfp8Codec, WeightFormat::kMxfp8},
                                {&kMxfp4Codec, WeightFormat::kMxfp4},
                                {&kNvfp4Codec, WeightFormat::kNvfp4},
                                {&kInt8Codec, WeightFormat::kInt8},
                                {&kBF16Codec, WeightFormat::kBF16}};

// A weight of `outputs` x k, stored and in panels. Both begin at odd addresses when stored.
class PanelWeight {
 public:
  PanelWeight(const PanelCase& c, std::int64_t outputs, std::int64_t k)
      : case_(c),
        outputs_(outputs),
        k_(k),
        values_(static_cast<std::size_t>(outputs * value_row_bytes(c.format, k) + 1)),
        scales_(static_cast<std::size_t>(outputs * scale_row_bytes(c.format, k) + 1)),
        panels_(weight_panel_bytes(c.format, outputs, k)) {}

  std::uint8_t* values() { return values_.data() + 1; }
  std::uint8_t* scales() { return scales_.data() + 1; }
  std::int64_t value_bytes() const { return std::ssize(values_) - 1; }
  std::int64_t scale_bytes() const { return std::ssize(scales_) - 1; }

  void pack() {
    const WeightRows rows{case_.format, values(), scales()};
    pack_panels(rows, outputs_, k_, 0, groups_of(outputs_), panels_.data());
  }

  // The exact values, [outputs, k].
  std::vector<float> decode() {
    Matrix w{case_.codec, {}, {}};
    w.rows = outputs_;
    w.cols = k_;
    w.values = {values(), case_.codec->values_dtype, {outputs_, values_cols(*case_.codec, k_)}};
    w.scales = {scales(), case_.codec->scales_dtype, {outputs_, scale_cols(*case_.codec, k_)}};
    std::vector<float> all(static_cast<std::size_t>(outputs_ * k_));
    for (std::int64_t n = 0; n < outputs_; ++n)
      case_.codec->decode(w, n, 0, k_, all.data() + n * k_);
    return all;
  }

  // x [rows, k] times the weight's transpose, [rows, outputs].
  std::vector<float> multiply(const Kernels& kernels, const std::vector<float>& x, float scale = 1,
                              ReadAhead ahead = ReadAhead::kSpans) {
    const std::int64_t rows = std::ssize(x) / k_;
    const bool int8 = case_.format == WeightFormat::kInt8;
    const PackedForKernel packed(kernels, x_form(case_.format), x.data(), rows, k_);
    Buffer scratch(kDotScratchBytes);
    std::vector<float> out(static_cast<std::size_t>(rows * outputs_), NAN);
    const bool several = panel_rows_of(kernels, x_form(case_.format)) > 1;
    const std::int64_t together = several ? kTileOutputBlock : kGroupOutputs;
    for (std::int64_t n = 0; n < outputs_; n += together)
      (int8 ? kernels.panel_dot_int8 : kernels.panel_dot)(
          {.x = packed.pointers(),
           .rows = rows,
           .format = case_.format,
           .group = panels_.data() + group_offset(case_.format, k_, n / kGroupOutputs),
           .outputs = std::min(together, outputs_ - n),
           .k = k_,
           .scale = scale,
           .out = out.data() + n,
           .out_stride = outputs_,
           .scratch = scratch.data(),
           .ahead = ahead});
    return out;
  }

 private:
  PanelCase case_;
  std::int64_t outputs_, k_;
  std::vector<std::uint8_t> values_, scales_;
  Buffer panels_;
};

std::uint32_t next(std::uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

// Numbers of every size that the format has, scales so that no sum overflows.
void fill(const PanelCase& c, PanelWeight& w) {
  std::uint32_t state = 5;
  for (std::int64_t i = 0; i < w.value_bytes(); ++i) {
    w.values()[i] = static_cast<std::uint8_t>(next(state));
    if (c.format == WeightFormat::kMxfp8 && (w.values()[i] & 0x7f) == 0x7f) w.values()[i] = 0x7e;
    if (c.format == WeightFormat::kInt8 && w.values()[i] == 0x80) w.values()[i] = 0x81;
    if (c.format == WeightFormat::kBF16 && i % 2 == 1)  // the exponent's upper bits: 2^-31 to 2^32
      w.values()[i] = static_cast<std::uint8_t>((w.values()[i] & 0x80) | (48 + next(state) % 32));
  }
  for (std::int64_t i = 0; i < w.scale_bytes(); ++i) {
    const std::uint32_t r = next(state);
    if (c.format == WeightFormat::kInt8)  // float16: the high byte's exponent
      w.scales()[i] = static_cast<std::uint8_t>(i % 2 == 0 ? r : r % 0x40);
    else if (c.format == WeightFormat::kNvfp4)
      w.scales()[i] = static_cast<std::uint8_t>(r % 0x7f);
    else
      w.scales()[i] = static_cast<std::uint8_t>(r % 40 == 0 ? 0 : 100 + r % 50);
  }
}

// Unit vectors for x: each sum is one weight.
TEST_P(PanelKernels, EveryCodeIsExact) {
  for (const PanelCase& c : kCases)
    for (const std::int64_t k : {128, 32, 66}) {
      const std::int64_t outputs = 37;
      PanelWeight w(c, outputs, k);
      fill(c, w);
      w.pack();
      const auto want = w.decode();
      // int8 rounds x to 127ths of the block's largest.
      const float unit = c.format == WeightFormat::kInt8 ? 127 : 1;
      for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{3}, k}) {
        for (std::int64_t first = 0; first + rows <= k; first += 13 * rows) {
          std::vector<float> x(static_cast<std::size_t>(rows * k));
          for (std::int64_t r = 0; r < rows; ++r)
            x[static_cast<std::size_t>(r * k + first + r)] = unit;
          const auto got = w.multiply(kernels_, x, 0.5f);
          for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t n = 0; n < outputs; ++n) {
              const float weight = want[static_cast<std::size_t>(n * k + first + r)];
              const float smallest = c.format == WeightFormat::kMxfp4   ? 0x1p-51f
                                     : c.format == WeightFormat::kMxfp8 ? 0x1p-109f
                                     : kernels_.x_panel_rows > 1        ? 0x1p-126f
                                                                        : 0;
              const float expected = std::fabs(weight) < smallest ? 0 : weight * unit * 0.5f;
              ASSERT_EQ(got[static_cast<std::size_t>(r * outputs + n)], expected)
                  << c.codec->name << ", output " << n << ", column " << first + r << " of " << k
                  << ", " << rows << " rows";
            }
        }
      }
    }
}

// What x becomes before it meets a 4-bit weight: multiples of 2^-11 of the power of two of the
// largest of each 32, after rounding to bfloat16.
std::vector<float> on_grid(std::vector<float> x) {
  for (std::size_t begin = 0; begin < x.size(); begin += 32) {
    const std::size_t end = std::min(begin + 32, x.size());
    float most = 0;
    for (std::size_t i = begin; i < end; ++i) {
      x[i] = round_to_bf16(x[i]);
      most = std::max(most, std::fabs(x[i]));
    }
    const int exponent = std::ilogb(most) - 11;
    for (std::size_t i = begin; i < end; ++i)
      x[i] =
          most < 0x1p-60f ? 0 : std::ldexp(std::nearbyint(std::ldexp(x[i], -exponent)), exponent);
  }
  return x;
}

// Blocks whose numbers are of one size, of very different sizes, tiny, or zero. One row.
std::vector<float> uneven_row(std::int64_t k, std::uint32_t& state) {
  std::vector<float> x(static_cast<std::size_t>(k));
  for (std::int64_t i = 0; i < k; ++i) {
    const float unit = static_cast<float>(next(state)) * 0x1p-23f - 1;
    const int kind = static_cast<int>(i / 32 % 5);
    const int exponent = kind == 0   ? 0
                         : kind == 1 ? static_cast<int>(next(state) % 24)
                         : kind == 2 ? -90 - static_cast<int>(next(state) % 40)
                                     : static_cast<int>(next(state) % 8);
    x[static_cast<std::size_t>(i)] = kind == 4 ? 0 : std::ldexp(unit, exponent);
  }
  return x;
}

// A block's sum is exact, so that any number of rows, on whichever units, gives the same bits.
TEST_P(PanelKernels, SumsOfFourBitBlocksAreExact) {
  std::uint32_t state = 17;
  for (const PanelCase& c : {kCases[1], kCases[2]}) {
    // With one block of weights, nothing but a block's sum is rounded.
    const std::int64_t k = layout_of(c.format).scale_columns, outputs = 21;
    PanelWeight w(c, outputs, k);
    fill(c, w);
    w.pack();
    const auto weights = w.decode();
    for (int trial = 0; trial < 40; ++trial) {
      std::vector<float> x(static_cast<std::size_t>(k));
      for (float& v : x)
        v = std::ldexp(static_cast<float>(next(state)) * 0x1p-23f - 1,
                       static_cast<int>(next(state) % 20) - 10);
      const auto grid = on_grid(x);
      for (const std::int64_t rows : {1, 2, 3, 4, 9}) {
        std::vector<float> all;
        for (std::int64_t r = 0; r < rows; ++r) all.insert(all.end(), x.begin(), x.end());
        const auto got = w.multiply(kernels_, all);
        for (std::int64_t n = 0; n < rows * outputs; ++n) {
          double sum = 0;
          for (std::int64_t i = 0; i < k; ++i)
            sum += static_cast<double>(grid[static_cast<std::size_t>(i)]) *
                   weights[static_cast<std::size_t>(n % outputs * k + i)];
          ASSERT_EQ(got[static_cast<std::size_t>(n)], static_cast<float>(sum))
              << c.codec->name << ", output " << n << " of " << rows << " rows";
        }
      }
    }
  }
}

TEST_P(PanelKernels, UnevenRowsGiveTheSameBitsInAnyNumber) {
  for (const PanelCase& c : kCases)
    for (const std::int64_t k : {160, 1000, 2048}) {
      const std::int64_t outputs = 70, rows = 14;
      PanelWeight w(c, outputs, k);
      fill(c, w);
      w.pack();
      std::uint32_t state = 23;
      std::vector<float> x;
      for (std::int64_t r = 0; r < rows; ++r) {
        const auto row = uneven_row(k, state);
        x.insert(x.end(), row.begin(), row.end());
      }
      const auto all = w.multiply(kernels_, x);
      for (const std::int64_t part : {1, 2, 3, 4, 6, 7, 8})
        for (std::int64_t first = 0; first + part <= rows; first += part) {
          const std::vector<float> some(x.begin() + first * k, x.begin() + (first + part) * k);
          for (const ReadAhead ahead : {ReadAhead::kSpans, ReadAhead::kLines}) {
            const auto got = w.multiply(kernels_, some, 1, ahead);
            ASSERT_EQ(std::memcmp(got.data(), all.data() + first * outputs, got.size() * 4), 0)
                << c.codec->name << ", k = " << k << ", rows " << first << " + " << part;
          }
        }
    }
}

TEST_P(PanelKernels, WhatIsNotFiniteInXIsSeen) {
  for (const PanelCase& c : kCases)
    for (const float value : {INFINITY, -INFINITY, NAN}) {
      const std::int64_t k = 160, outputs = 20;
      PanelWeight w(c, outputs, k);
      fill(c, w);
      w.pack();
      for (const std::int64_t rows : {1, 3, 8}) {
        std::vector<float> x(static_cast<std::size_t>(rows * k), 0.5f);
        x[77] = value;
        const auto got = w.multiply(kernels_, x);
        for (std::int64_t n = 0; n < rows * outputs; ++n)
          EXPECT_EQ(std::isfinite(got[static_cast<std::size_t>(n)]), n >= outputs)
              << c.codec->name << ", " << rows << " rows, output " << n;
      }
    }
}

TEST_P(PanelKernels, ANanOfE4m3IsSeen) {
  const PanelCase& c = kCases[0];
  for (const int nan : {0x7f, 0xff}) {
    PanelWeight w(c, 16, 128);
    fill(c, w);
    w.values()[5 * 128 + 77] = static_cast<std::uint8_t>(nan);
    w.pack();
    for (const std::int64_t rows : {1, 20}) {
      const auto got =
          w.multiply(kernels_, std::vector<float>(static_cast<std::size_t>(rows * 128), 1.0f));
      for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(std::isnan(got[i]), i % 16 == 5) << i;
    }
  }
}

TEST_P(PanelKernels, ARowDoesNotDependOnItsNeighbours) {
  for (const PanelCase& c : kCases)
    for (const std::int64_t k : {34, 128, 400, 1152}) {
      const std::int64_t outputs = 90, rows = 203;
      PanelWeight w(c, outputs, k);
      fill(c, w);
      w.pack();
      std::vector<float> x(static_cast<std::size_t>(rows * k));
      std::uint32_t state = 9;
      for (float& v : x) v = static_cast<float>(next(state)) * 0x1p-23f - 1;
      const auto all = w.multiply(kernels_, x);
      for (const std::int64_t part : {1, 2, 4, 5, 7, 12, 13, 192, 197}) {
        const std::vector<float> some(x.begin(), x.begin() + part * k);
        const auto got = w.multiply(kernels_, some);
        EXPECT_EQ(std::memcmp(got.data(), all.data(), got.size() * 4), 0)
            << c.codec->name << ", k = " << k << ", " << part << " rows";
      }
    }
}

}  // namespace
}  // namespace m3::cpu
