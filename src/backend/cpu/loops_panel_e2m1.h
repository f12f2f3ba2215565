// x Wᵀ for 4-bit weights in panels: x on a grid, so that a block's sum is exact, and few rows on
// integer units. For isa_*.cc only.
//
// The numbers of e2m1 are halves of the integers 0, 1, 2, 3, 4, 6, 8 and 12. x is rounded to
// bfloat16 and then, 32 columns at a time, to multiples of a unit: 2^-11 of the power of two in the
// block's largest magnitude, 16 times finer than that number's own rounding. Sums of 32 products
// are then multiples of half a unit below 2^24 of them; and sums of 16 still are where each is
// multiplied by the scale of an NVFP4 block, whose four bits tiles take into the weight. Float32
// adds them without rounding, in any order, and integers give the same. So each way to multiply
// gives the same bits, and the cheaper one may be taken:
// - many rows multiply bfloat16 numbers (loops_panels.h), each of which serves all rows;
// - few rows wait for the decoding of the weights, which to bytes takes half of the instructions:
//   x, as an integer of 15 bits, is cut into two signed bytes that meet the weight, doubled and
//   plus 12, in an instruction for unsigned times signed bytes. What the 12 adds is taken off where
//   the chain starts. (Zen 4, one core, weights in its caches, rows: 38 GB/s (1), 25 (2), where
//   bfloat16 makes 33 and 23; from memory it is 28 of the 30 that a core can read.)
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_panels.h"
#include "backend/cpu/loops_tile.h"

namespace m3::cpu {
namespace {

constexpr std::int64_t kGridColumns = 32;
constexpr int kGridBits = 11;
// Below, products of bfloat16 could be subnormal: a block of such numbers counts as zeros.
constexpr float kGridSmallest = 0x1p-60f;
constexpr int kE2m1Offset = 12;
// With more, bfloat16 is as fast.
constexpr std::int64_t kGridRows = 3;

// What the integer product needs of a block of x.
struct GridBlock {
  // Four bytes each. Of 8 columns: the upper and the lower bytes of columns 0 4 1 5, and those of 2
  // 6 3 7: as the nibbles of a panel's word lie.
  std::int32_t quads[kGridColumns / 8][2][2];
  std::int32_t starts[3];  // -kE2m1Offset times the sum of x: of all columns, and of both halves
  float half_unit;         // NaN where x has a number that is not finite
};

// Of one row.
inline std::int64_t grid_blocks_bytes(std::int64_t k) {
  return spans_of(k) * kSpanColumns / kGridColumns * static_cast<std::int64_t>(sizeof(GridBlock));
}

// A row on the grid: as D multiplies bfloat16, then the blocks for integers.
template <class D>
std::int64_t packed_bytes_e2m1(std::int64_t k) {
  return round_up(packed_bytes<D>(k) + (D::kHasQuads ? grid_blocks_bytes(k) : 0), 64);
}

// Rounds x [kGridColumns] to the grid. Returns the unit: 0 for a block of zeros, NaN for
// one with a number that is not finite, all of which become NaN.
template <class D>
float round_to_grid(const float* x, float* on_grid) {
  using S = typename D::Simd;
  std::uint16_t rounded[kGridColumns];
  auto sizes = S::zero();
  for (std::int64_t i = 0; i < kGridColumns; i += S::kLanes) {
    D::store_factor(rounded + i, S::load(x + i));
    const auto size = S::bit_and(S::bits(S::load(rounded + i)), S::set1_32(0x7fffffff));
    sizes = S::max_or_nan(S::from_bits(size), sizes);
  }
  const float most = S::largest(sizes);
  float unit = 0, inverse = 0;
  if (most >= kGridSmallest) {
    const std::uint32_t exponent = __builtin_bit_cast(std::uint32_t, most) >> 23;
    unit = __builtin_bit_cast(float, (exponent - kGridBits) << 23);
    inverse = __builtin_bit_cast(float, (254 + kGridBits - exponent) << 23);
  }
  if (!(most <= 0x1.fep127f)) unit = inverse = __builtin_nanf("");
  for (std::int64_t i = 0; i < kGridColumns; i += S::kLanes) {
    const auto units = S::round(S::mul(S::load(rounded + i), S::set1(inverse)));
    S::store(on_grid + i, S::mul(units, S::set1(unit)));
  }
  return unit;
}

// x as round_to_grid() leaves it.
template <class S>
void split_into_bytes(const float* x, float unit, GridBlock& block) {
  const auto inverse = S::set1(unit > 0 ? 1 / unit : 0);
  const auto n = S::to_words(S::mul(S::load(x), inverse), S::mul(S::load(x + S::kLanes), inverse));
  // The upper byte of n + 128: n minus its lower byte, which is signed.
  const auto upper = S::bit_and(S::add_16(n, S::set1_16(128)), S::set1_16(0xff00));
  const auto bytes = S::bit_or(upper, S::bit_and(n, S::set1_16(0x00ff)));
  const auto order = S::repeat(0x0a'02'08'00'0b'03'09'01, 0x0e'06'0c'04'0f'07'0d'05);
  S::store_h(block.quads, S::pick_bytes(bytes, order));
  std::int32_t first, second;
  S::sums_of_halves(n, first, second);
  block.starts[0] = -kE2m1Offset * (first + second);
  block.starts[1] = -kE2m1Offset * first;
  block.starts[2] = -kE2m1Offset * second;
  block.half_unit = unit / 2;
}

template <class D>
GridBlock* grid_blocks(void* packed, std::int64_t k) {
  return reinterpret_cast<GridBlock*>(static_cast<char*>(packed) + packed_bytes<D>(k));
}
template <class D>
const GridBlock* grid_blocks(const PanelJob& job, std::int64_t row) {
  if constexpr (D::kXInPanels)  // behind the numbers of all rows (loops_x_panels.h)
    return reinterpret_cast<const GridBlock*>(static_cast<const char*>(job.x[0]) +
                                              spans_of(job.k) * kSpanColumns * 2 * job.rows +
                                              row * grid_blocks_bytes(job.k));
  return grid_blocks<D>(const_cast<void*>(job.x[row]), job.k);
}

template <class D>
void pack_e2m1(const float* x, std::int64_t k, void* packed) {
  auto* out = static_cast<char*>(packed);
  GridBlock* blocks = D::kHasQuads ? grid_blocks<D>(packed, k) : nullptr;
  for (std::int64_t at = 0; at < spans_of(k) * kSpanColumns; at += kGridColumns) {
    float part[kGridColumns];
    const float* block = x + at;
    if (at + kGridColumns > k) {
      block = part;
      for (std::int64_t i = 0; i < kGridColumns; ++i) part[i] = at + i < k ? x[at + i] : 0;
    }
    const float unit = round_to_grid<D>(block, part);
    for (std::int64_t i = 0; i < kGridColumns; i += D::kStep, out += D::kPackedStepBytes)
      D::pack_step(part + i, out);
    if constexpr (D::kHasQuads) split_into_bytes<typename D::Simd>(part, unit, *blocks++);
  }
}

// As DecodedSpan, on integer units.
template <class D, class P, int kRows>
class GridSpan {
 public:
  using S = typename D::Simd;
  using F = typename S::F;
  static constexpr std::int64_t kXBytes =
      kSpanColumns / kGridColumns * static_cast<std::int64_t>(sizeof(GridBlock));
  static constexpr bool kAsksForSpans = kRows > 1;

  GridSpan(const PanelJob& job, std::int64_t row) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) x_[r] = grid_blocks<D>(job, row + r);
  }

  template <Ahead kAhead>
  [[gnu::always_inline]] void add(std::int64_t s, const std::uint8_t* span, int vector,
                                  F (&total)[kRows]) const {
    using H = typename S::H;
    const std::uint8_t* values = span + vector * S::kLanes * 4;
    const std::uint8_t* scales = span + vector * S::kLanes;
#pragma GCC unroll 1
    for (int b0 = 0; b0 < Shape::kBlocks; b0 += Shape::kTurns) {
      const GridBlock* x[kRows];
      H upper[kRows][Shape::kTurns], lower[kRows][Shape::kTurns];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        x[r] = x_[r] + s * (kSpanColumns / kGridColumns) + b0 / kHalves;
#pragma GCC unroll 2
        for (int b = 0; b < Shape::kTurns; ++b) {
          upper[r][b] = S::set1_32(0);
          lower[r][b] = S::set1_32(x[r][b / kHalves].starts[kHalves == 1 ? 0 : 1 + b]);
        }
      }
#pragma GCC unroll 2
      for (int i = 0; i < Shape::kLoads; ++i)
#pragma GCC unroll 2
        for (int b = 0; b < Shape::kTurns; ++b) {
          const std::uint8_t* here = values + Shape::values_at(b0 + b, i);
          if (kAhead == Ahead::kLines && vector == 0) ask_ahead(here);
          H bytes = S::load_h(here);
          asm("" : "+v"(bytes));  // loaded once, not by both of its uses
          const H w[2] = {nibbles_to_bytes(bytes),
                          nibbles_to_bytes(S::template shift_right<4>(bytes))};
#pragma GCC unroll 2
          for (int half = 0; half < 2; ++half)
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
              const auto& quads = x[r][b / kHalves].quads[b % kHalves * Shape::kLoads + i][half];
              upper[r][b] = D::dot_quads_in_memory(upper[r][b], w[half], quads[0]);
              lower[r][b] = D::dot_quads_in_memory(lower[r][b], w[half], quads[1]);
            }
        }
#pragma GCC unroll 2
      for (int b = 0; b < Shape::kTurns; ++b) {
        const F scale = P::scales(scales + Shape::scales_at(b0 + b));
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const H sum = S::add_32(S::template shift_left_32<8>(upper[r][b]), lower[r][b]);
          const F chain = S::mul(S::to_float(sum), S::set1(x[r][b / kHalves].half_unit));
          total[r] = S::fma(chain, scale, total[r]);
        }
      }
    }
  }

 private:
  using Shape = SpanShape<P>;
  // Blocks of 16 columns are halves of a block of x.
  static constexpr int kHalves = kGridColumns / Shape::kBlockColumns;

  // The numbers of the low nibbles, doubled and plus kE2m1Offset.
  static typename S::H nibbles_to_bytes(typename S::H x) {
    constexpr std::uint64_t kPositive = 0x18'14'12'10'0f'0e'0d'0c;
    constexpr std::uint64_t kNegative = 0x00'04'06'08'09'0a'0b'0c;
    return S::pick_bytes(S::repeat(kPositive, kNegative), S::bit_and(x, S::set1_16(0x0f0f)));
  }

  const GridBlock* x_[kRows];
};

// Of at most kGridRows rows.
template <class D, class P>
void grid_product(const PanelJob& job) {
  with_constant<kGridRows>(job.rows, [&](auto rows) {
    constexpr int kRows = decltype(rows)::value;
    one_tile<GridSpan<D, P, kRows>, kRows>(job);
  });
}

template <class D, class P>
void e2m1_product(const PanelJob& job) {
  if constexpr (D::kHasQuads) {
    if (job.rows <= kGridRows) return grid_product<D, P>(job);
  }
  panel_product<D, P>(job);
}

template <class D>
void panel_dot(const PanelJob& job) {
  using S = typename D::Simd;
  if (job.rows == 0) return;
  switch (job.format) {
    case WeightFormat::kBF16:
      return panel_product<D, Bf16Panel<S>>(job);
    case WeightFormat::kMxfp8:
      return panel_product<D, Mxfp8Panel<S>>(job);
    case WeightFormat::kMxfp4:
      return e2m1_product<D, Mxfp4Panel<S>>(job);
    case WeightFormat::kNvfp4:
      return e2m1_product<D, Nvfp4Panel<S>>(job);
    default:  // kInt8, whose x is packed otherwise, has panel_dot_int8
      __builtin_unreachable();
  }
}

}  // namespace
}  // namespace m3::cpu
