// The product by tiles against a transcription of TDPBF16PS, bit for bit: the twins everywhere, and
// the tiles themselves where the machine has them, which is also the test of the twins.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/amx_probe.h"
#include "backend/cpu/kernels_testing.h"
#include "backend/cpu/panels.h"
#include "base/cpu_features.h"
#include "base/random.h"
#include "tensor/numeric.h"

namespace m3::cpu {
namespace {

struct TileTable {
  std::string name;
  const Kernels* kernels;
};

std::vector<TileTable> tables() {
  std::vector<TileTable> all = {{"twin_x86_64", &kAmxTwinX86_64Kernels}};
  if (cpu_features().avx512_bf16) all.push_back({"twin", &kAmxTwinKernels});
  if (amx_granted()) all.push_back({"amx", &kAmxKernels});
  return all;
}

class TileProducts : public testing::TestWithParam<TileTable> {
 protected:
  const Kernels& kernels_ = *GetParam().kernels;
};
INSTANTIATE_TEST_SUITE_P(All, TileProducts, testing::ValuesIn(tables()),
                         [](const auto& table) { return table.param.name; });

// ---------------------------------------------------------------------------------- definition

// Subnormal numbers count as zeros of their sign.
float daz(float x) {
  return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

// `x`, which is exact or has more than enough bits, to float32 once; what is below the normal
// numbers after a rounding to 24 bits becomes a zero of its sign.
float round_and_flush(double x) {
  if (std::abs(x) > 0x1p-100 || std::isnan(x)) return static_cast<float>(x);
  const float scaled = static_cast<float>(x * 0x1p64);  // far from where float32 has fewer bits
  if (std::abs(scaled) < 0x1p-62f) return std::copysign(0.0f, scaled);
  return scaled * 0x1p-64f;
}

float fused(float a, float b, float c) {
  return round_and_flush(double{daz(a)} * double{daz(b)} + double{daz(c)});
}

float added(float a, float b) {
  return round_and_flush(double{daz(a)} + double{daz(b)});
}

// One sum of C after TDPBF16PS over 32 columns.
float tdpbf16ps(float c, const float* a, const float* b) {
  float even = 0, odd = 0;
  for (int k = 0; k < 16; ++k) {
    even = fused(a[2 * k], b[2 * k], even);
    odd = fused(a[2 * k + 1], b[2 * k + 1], odd);
  }
  return added(c, added(even, odd));
}

// w and x [k], of bfloat16 values. The end of k is padded with zeros to whole spans: where an
// instruction adds nothing but zeros, a sum of -0 becomes +0.
float dot_of(const float* w, const float* x, std::int64_t k) {
  const auto padded = [k](const float* from) {
    std::vector<float> all(from, from + k);
    all.resize(static_cast<std::size_t>(spans_of(k) * kSpanColumns));
    return all;
  };
  const std::vector<float> a = padded(w), b = padded(x);
  float sum = 0;
  for (std::size_t at = 0; at < a.size(); at += 32) sum = tdpbf16ps(sum, &a[at], &b[at]);
  return sum;
}

// ------------------------------------------------------------------------------------- numbers

class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}

  // Ordinary numbers.
  float ordinary() { return round_to_bf16(static_cast<float>(below(1 << 24)) * 0x1p-23f - 1); }
  // Of every kind that the instruction treats in its own way; `kind` says which prevail.
  float special(int kind) {
    switch (kind % 6) {
      case 0:
        return ordinary();
      case 1:  // products around the smallest normal number
        return scaled(-69, 12);
      case 2:  // products around the largest
        return scaled(60, 6);
      case 3:  // zeros of both signs, subnormal numbers
        return below(2) ? std::copysign(0.0f, ordinary()) : of_bits(0, 128);
      case 4:  // one factor tiny, one ordinary
        return below(2) ? of_bits(128, 256) : ordinary();
      default:
        return below(60) ? ordinary() : infinite_or_nan();
    }
  }

 private:
  int below(int limit) { return static_cast<int>(mix64(state_ += kGolden) % limit); }
  float infinite_or_nan() {
    return below(3) ? std::copysign(std::numeric_limits<float>::infinity(), ordinary())
                    : std::numeric_limits<float>::quiet_NaN();
  }
  // Each number drawn in a statement of its own: the order of arguments is the compiler's choice.
  float scaled(int exponent, int exponents) {
    exponent += below(exponents);
    return std::ldexp(ordinary(), exponent);
  }
  float of_bits(int first, int count) {
    const int magnitude = first + below(count);
    return to_float(BF16{static_cast<std::uint16_t>(magnitude | below(2) << 15)});
  }

  std::uint64_t state_;
};

struct Factors {
  std::int64_t rows, outputs, k;
  std::vector<float> x, w;          // [rows, k], [outputs, k]
  std::vector<std::byte> w_stored;  // bfloat16, at an odd address
};

// next(row of x, or rows + row of w).
template <typename Next>
Factors make_factors(std::int64_t rows, std::int64_t outputs, std::int64_t k, const Next& next) {
  Factors f{rows, outputs, k,
            {},   {},      std::vector<std::byte>(static_cast<std::size_t>(outputs * k * 2 + 1))};
  for (std::int64_t i = 0; i < rows * k; ++i) f.x.push_back(next(i / k));
  for (std::int64_t i = 0; i < outputs * k; ++i) {
    f.w.push_back(next(rows + i / k));
    const BF16 bits = to_bf16(f.w.back());
    std::memcpy(f.w_stored.data() + 1 + i * 2, &bits, 2);
  }
  return f;
}

// The same with W in panels.
std::vector<float> product_of_panels(const Kernels& kernels, const Factors& f) {
  Buffer panels(weight_panel_bytes(WeightFormat::kBF16, f.outputs, f.k)), scratch(kDotScratchBytes);
  pack_panels({WeightFormat::kBF16, f.w_stored.data() + 1, nullptr}, f.outputs, f.k, 0,
              groups_of(f.outputs), panels.data());
  const PackedForKernel packed(kernels, XForm::kDot, f.x.data(), f.rows, f.k);
  std::vector<float> out(static_cast<std::size_t>(f.rows * f.outputs));
  kernels.panel_dot({.x = packed.pointers(),
                     .rows = f.rows,
                     .format = WeightFormat::kBF16,
                     .group = panels.data(),
                     .outputs = f.outputs,
                     .k = f.k,
                     .out = out.data(),
                     .out_stride = f.outputs,
                     .scratch = scratch.data()});
  return out;
}

std::vector<float> product(const Kernels& kernels, const Factors& f) {
  Buffer scratch(kDotScratchBytes);
  const PackedForKernel packed(kernels, XForm::kDot, f.x.data(), f.rows, f.k);
  std::vector<float> out(static_cast<std::size_t>(f.rows * f.outputs));
  kernels.dot({.x = packed.pointers(),
               .rows = f.rows,
               .w = {WeightFormat::kBF16, f.w_stored.data() + 1, nullptr},
               .outputs = f.outputs,
               .k = f.k,
               .out = out.data(),
               .out_stride = f.outputs,
               .scratch = scratch.data()});
  return out;
}

void expect_the_bits_of_the_definition(const Kernels& kernels, const Factors& f) {
  const std::vector<float> out = product(kernels, f), same = product_of_panels(kernels, f);
  ASSERT_EQ(std::memcmp(out.data(), same.data(), out.size() * 4), 0);
  for (std::int64_t t = 0; t < f.rows; ++t)
    for (std::int64_t n = 0; n < f.outputs; ++n) {
      const float want = dot_of(f.w.data() + n * f.k, f.x.data() + t * f.k, f.k);
      const float is = out[static_cast<std::size_t>(t * f.outputs + n)];
      if (std::isnan(want) && std::isnan(is)) continue;
      ASSERT_EQ(std::bit_cast<std::uint32_t>(is), std::bit_cast<std::uint32_t>(want))
          << is << " instead of " << want << " at row " << t << ", output " << n << " of " << f.rows
          << " x " << f.outputs << " x " << f.k;
    }
}

// --------------------------------------------------------------------------------------- tests

// w [k] and x [k] where they are not zero.
struct Term {
  std::int64_t column;
  float w, x;
};

float sum_of(const Kernels& kernels, std::int64_t k, const std::vector<Term>& terms) {
  Factors f = make_factors(1, 1, k, [&](std::int64_t) { return 0.0f; });
  for (const Term& term : terms) {
    f.x[static_cast<std::size_t>(term.column)] = term.x;
    const BF16 bits = to_bf16(term.w);
    std::memcpy(f.w_stored.data() + 1 + term.column * 2, &bits, 2);
  }
  return product(kernels, f)[0];
}

TEST_P(TileProducts, WorkedExamples) {
  const auto sum = [&](std::int64_t k, const std::vector<Term>& terms) {
    return sum_of(kernels_, k, terms);
  };
  // Even and odd columns have sums of their own, which meet at the end of 32 columns.
  EXPECT_EQ(sum(32, {{0, 0x1p24f, 1}, {1, 1, 1}, {2, -0x1p24f, 1}}), 1);
  EXPECT_EQ(sum(32, {{0, 0x1p24f, 1}, {2, 1, 1}, {4, -0x1p24f, 1}}), 0);
  EXPECT_EQ(sum(64, {{0, 0x1p24f, 1}, {33, 1, 1}, {2, -0x1p24f, 1}}), 1);
  EXPECT_EQ(sum(96, {{0, 0x1p24f, 1}, {33, 1, 1}, {64, -0x1p24f, 1}}), 0);
  // A subnormal factor is zero; so is a subnormal product, and the sum of two normal numbers.
  EXPECT_EQ(sum(32, {{0, 0x1p-127f, 0x1p100f}}), 0);
  EXPECT_EQ(sum(32, {{0, 0x1p-64f, 0x1p-63f}}), 0);
  EXPECT_EQ(sum(32, {{0, 0x1p-63f, 0x1p-63f}}), 0x1p-126f);
  EXPECT_EQ(sum(64, {{0, 0x1.8p-63f, 0x1p-63f}, {32, -0x1p-63f, 0x1p-63f}}), 0);
  // A product is not rounded before it is added: 2^128 is more than float32 holds.
  EXPECT_EQ(sum(32, {{0, -0x1p64f, 0x1p63f}, {2, 0x1p64f, 0x1p64f}}), 0x1p127f);
  // A sum that is flushed keeps its sign until zeros are added to it.
  EXPECT_TRUE(std::signbit(sum(128, {{0, 0x1p-63f, 0x1p-63f}, {96, -0x1.8p-63f, 0x1p-63f}})));
  EXPECT_FALSE(std::signbit(sum(128, {{0, 0x1p-63f, 0x1p-63f}, {64, -0x1.8p-63f, 0x1p-63f}})));
  EXPECT_FALSE(std::signbit(sum(40, {{0, 0x1p-63f, 0x1p-63f}, {32, -0x1.8p-63f, 0x1p-63f}})));
  // What pads the end of K is no factor of infinity.
  EXPECT_EQ(sum(31, {{30, std::numeric_limits<float>::infinity(), 1}}),
            std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(sum(31, {{30, std::numeric_limits<float>::infinity(), 0}})));
}

// Whole and partial tiles of numbers at which DAZ, FTZ, the order of sums and the single rounding
// of a step are seen.
TEST_P(TileProducts, OfSpecialNumbersHaveTheBitsOfTheDefinition) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    Numbers numbers(seed);
    for (const std::int64_t k : {2, 32, 40, 96, 128})
      for (const std::int64_t rows : {1, 6, 16, 23})
        for (int shift = 0; shift < 6; ++shift)
          expect_the_bits_of_the_definition(
              kernels_, make_factors(rows, 24, k, [&](std::int64_t row) {
                return numbers.special(static_cast<int>(row < rows ? row : row / 2) + shift);
              }));
  }
}

TEST_P(TileProducts, OfEveryShapeHaveTheBitsOfTheDefinition) {
  Numbers numbers(1);
  const auto expect = [&](std::int64_t rows, std::int64_t outputs, std::int64_t k) {
    expect_the_bits_of_the_definition(
        kernels_, make_factors(rows, outputs, k, [&](std::int64_t) { return numbers.ordinary(); }));
  };
  for (const std::int64_t k : {1, 31, 33, 64})
    for (const std::int64_t outputs : {1, 15, 16, 17, 40})
      for (const std::int64_t rows : {1, 2, 15, 16, 17, 31, 32, 33, 40}) expect(rows, outputs, k);
  for (std::int64_t rows = 1; rows <= 40; ++rows) expect(rows, 33, 35);
  // Several blocks of columns, and the largest job.
  for (const std::int64_t rows : {1, 16, 17}) expect(rows, 17, 6144 - rows);
  expect(200, 40, 650);
  expect(kTileRowBlock, kTileOutputBlock, 33);
}

// Linear layers cut rows and outputs into jobs; nothing of that is seen in a row.
TEST(TileBlocks, ChangeNoBits) {
  ThreadPool pool(2);
  for (const std::string& isa : isas_to_test()) {
    if (!isa.starts_with("amx")) continue;
    const auto backend = make_cpu_backend(isa, pool);
    ASSERT_TRUE(backend) << backend.error().message;
    const std::int64_t rows = kTileRowBlock + 9, outputs = kTileOutputBlock + 22, k = 352;
    Numbers numbers(1);
    Factors f = make_factors(rows, outputs, k, [&](std::int64_t) { return numbers.ordinary(); });
    const Linear linear{{&codec_of(Format::kBF16),
                         {f.w_stored.data() + 1, DType::kBF16, {outputs, k}},
                         {},
                         outputs,
                         k}};
    const auto run = [&](std::int64_t first, std::int64_t count) {
      std::vector<float> out(static_cast<std::size_t>(count * outputs));
      const LinearOutput output{&linear, {out.data(), DType::kF32, {count, outputs}}};
      (*backend)->linear({f.x.data() + first * k, DType::kF32, {count, k}}, {&output, 1});
      return out;
    };
    const std::vector<float> all = run(0, rows);
    for (const auto& [first, count] :
         {std::pair{std::int64_t{0}, std::int64_t{1}}, {255, 40}, {rows - 9, 9}, {300, 130}}) {
      const std::vector<float> some = run(first, count);
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + first * outputs))
          << isa << ": " << count << " rows from " << first;
    }
  }
}

}  // namespace
}  // namespace m3::cpu
