// x Wᵀ for int8 weights in panels (panels.h), on integer units. For isa_*.cc only.
//
// x is rounded to 8 bits by the scale of each block of 32 columns (largest magnitude / 127), and
// stored plus 128, as the instructions multiply unsigned by signed numbers; what the 128 adds is
// -128 times the sum of the block's weights, where the chain starts. Integers make a block's sum
// exact; it is multiplied by both scales and added to the row's sum in float32, block after block.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_panels.h"
#include "backend/cpu/loops_rows.h"

namespace m3::cpu {
namespace {

constexpr WeightFormat kInt8 = WeightFormat::kInt8;
constexpr std::int64_t kInt8Block = 32;
constexpr int kInt8Loads = 8;                                             // of a block
constexpr int kInt8Blocks = static_cast<int>(kSpanColumns / kInt8Block);  // of a span
constexpr std::int64_t kInt8FewRows = 4;

// A packed row: bytes of whole spans, then a float32 scale for each block.
inline std::int64_t packed_bytes_int8(std::int64_t k) {
  const std::int64_t columns = spans_of(k) * kSpanColumns;
  return round_up(columns + columns / kInt8Block * 4, 64);
}

template <class S>
void pack_int8_block(const float* x, std::uint8_t* out, float* scale) {
  float size[kInt8Block];
  for (std::int64_t i = 0; i < kInt8Block; ++i) size[i] = __builtin_fabsf(x[i]);
  *scale = largest<S>(size, kInt8Block) / 127;
  // NaN and infinity give a scale that is neither 0 nor finite: every product becomes NaN.
  const float inverse = *scale > 0 ? 1 / *scale : 0;
  for (std::int64_t i = 0; i < kInt8Block; ++i) {
    const float q = __builtin_nearbyintf(x[i] * inverse);
    const float kept = q >= -127 && q <= 127 ? q : q > 0 ? 127 : -127;
    out[i] = static_cast<std::uint8_t>(static_cast<int>(kept) + 128);
  }
}

template <class S>
void pack_int8(const float* x, std::int64_t k, void* packed) {
  const std::int64_t columns = spans_of(k) * kSpanColumns;
  auto* out = static_cast<std::uint8_t*>(packed);
  auto* scales = reinterpret_cast<float*>(out + columns);
  for (std::int64_t at = 0; at < columns; at += kInt8Block) {
    if (at + kInt8Block <= k) {
      pack_int8_block<S>(x + at, out + at, scales + at / kInt8Block);
      continue;
    }
    float part[kInt8Block] = {};
    for (std::int64_t i = 0; at + i < k; ++i) part[i] = x[at + i];
    pack_int8_block<S>(part, out + at, scales + at / kInt8Block);
  }
}

// Four columns of x in every lane.
template <class S>
typename S::H broadcast_quad(const void* row, std::int64_t column) {
  return S::broadcast_pair(
      reinterpret_cast<const std::uint16_t*>(static_cast<const std::uint8_t*>(row) + column));
}

inline float block_scale(const void* row, std::int64_t columns, std::int64_t block) {
  return reinterpret_cast<const float*>(static_cast<const std::uint8_t*>(row) + columns)[block];
}

constexpr std::int64_t int8_values_at(int b, int i) {
  return scale_bytes_of_span(kInt8) + (b * kInt8Loads + i) * 4 * kPanelOutputs;
}
constexpr std::int64_t int8_scales_at(int b) {
  return b * 2 * kPanelOutputs;
}

// As DecodedSpan, of a packed row's bytes.
template <class D, int kRows>
class Int8Span {
 public:
  using S = typename D::Simd;
  using F = typename S::F;
  static constexpr std::int64_t kXBytes = kSpanColumns;
  static constexpr bool kAsksForSpans = false;

  Int8Span(const PanelJob& job, std::int64_t row) : columns_(spans_of(job.k) * kSpanColumns) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) x_[r] = job.x[row + r];
  }

  template <Ahead kAhead>
  [[gnu::always_inline]] void add(std::int64_t s, const std::uint8_t* span, int vector,
                                  F (&total)[kRows]) const {
    using H = typename S::H;
    const std::uint8_t* values = span + vector * S::kLanes * 4;
    const std::uint8_t* scales = span + vector * S::kLanes * 2;
    const std::int64_t column = s * kSpanColumns;
#pragma GCC unroll 1
    for (int b = 0; b < kInt8Blocks; ++b) {
      H chains[kRows], weights = S::set1_32(0);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) chains[r] = S::set1_32(0);
#pragma GCC unroll 8
      for (int i = 0; i < kInt8Loads; ++i) {
        const std::uint8_t* here = values + int8_values_at(b, i);
        if (kAhead == Ahead::kLines && vector == 0) ask_ahead(here);
        const H w = S::load_h(here);
        weights = D::dot_quads(weights, S::set1_32(0x01010101), w);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
          chains[r] =
              D::dot_quads(chains[r], broadcast_quad<S>(x_[r], column + b * kInt8Block + 4 * i), w);
      }
      const H offset = S::template shift_left_32<7>(weights);
      const F scale = f16_scales<S>(scales + int8_scales_at(b));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const float xs = block_scale(x_[r], columns_, column / kInt8Block + b);
        total[r] =
            S::fma(S::to_float(S::sub_32(chains[r], offset)), S::mul(scale, S::set1(xs)), total[r]);
      }
    }
  }

 private:
  const void* x_[kRows];
  std::int64_t columns_;
};

// What many rows share of one or two panels' chunk: -128 times the sum of each block's weights, and
// the scales in float32. Both [block][32 outputs].
template <class D>
struct Int8Panels {
  using S = typename D::Simd;
  static constexpr std::int64_t kOutputs = 2 * kPanelOutputs;
  static constexpr std::int64_t kSpans = 2;
  static constexpr std::int64_t kXBytes = 0;  // rows are in the second-level cache
  static constexpr std::int64_t kChunkBlocks = kSpans * kInt8Blocks;
  alignas(64) std::int32_t offsets[kChunkBlocks * kOutputs];
  alignas(64) float scales[kChunkBlocks * kOutputs];
  const std::uint8_t* spans[2];  // the chunk's first of each panel; one alone is there twice
  std::int64_t stride;           // from a panel's span to its next

  void prepare(const PanelJob& job, const Chunk& chunk, std::int64_t panel, std::int64_t panels) {
    stride = span_stride(job);
    for (std::int64_t n = 0; n < 2; ++n)
      spans[n] = span_at(job, n < panels ? panel + n : panel, chunk.first);
    for (std::int64_t n = 0; n < panels; ++n)
      for (std::int64_t s = 0; s < chunk.spans; ++s)
        prepare_span(span_at(job, panel + n, chunk.first + s), s, n);
  }

 private:
  void prepare_span(const std::uint8_t* span, std::int64_t s, std::int64_t panel) {
    using H = typename S::H;
    for (int b = 0; b < kInt8Blocks; ++b)
      for (int v = 0; v < kPanelVectors<S>; ++v) {
        H sum = S::set1_32(0);
        for (int i = 0; i < kInt8Loads; ++i)
          sum = D::dot_quads(sum, S::set1_32(0x01010101),
                             S::load_h(span + int8_values_at(b, i) + v * S::kLanes * 4));
        const std::int64_t at =
            (s * kInt8Blocks + b) * kOutputs + panel * kPanelOutputs + v * S::kLanes;
        S::store_h(offsets + at, S::sub_32(S::set1_32(0), S::template shift_left_32<7>(sum)));
        S::store(scales + at, f16_scales<S>(span + int8_scales_at(b) + v * S::kLanes * 2));
      }
  }
};

// Two vectors of outputs, from `vector` on, for kRows rows.
template <class D, int kRows>
[[gnu::noinline]] void int8_tile(const void* const* x, std::int64_t k, const Chunk& chunk,
                                 const Int8Panels<D>& shared, int vector, float* sums) {
  using S = typename D::Simd;
  using H = typename S::H;
  const std::int64_t columns = spans_of(k) * kSpanColumns;
  typename S::F total[kRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v)
      total[r][v] = chunk.begins() ? S::zero() : S::load(sums_at<S>(sums, r, v));
  const auto vector_at = [&](int v) {
    return shared.spans[v / kPanelVectors<S>] + v % kPanelVectors<S> * S::kLanes * 4;
  };
  const std::uint8_t* w0 = vector_at(vector);
  const std::uint8_t* w1 = vector_at(vector + 1);
  std::int64_t at = vector * S::kLanes;
  std::int64_t column = chunk.first * kSpanColumns;
  for (std::int64_t s = 0; s < chunk.spans; ++s, w0 += shared.stride, w1 += shared.stride)
    for (int b = 0; b < kInt8Blocks; ++b, column += kInt8Block, at += Int8Panels<D>::kOutputs) {
      const H o0 = S::load_h(shared.offsets + at), o1 = S::load_h(shared.offsets + at + S::kLanes);
      H chains[kRows][2];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        chains[r][0] = o0;
        chains[r][1] = o1;
      }
#pragma GCC unroll 1
      for (int i = 0; i < kInt8Loads; ++i) {
        const H a = S::load_h(w0 + int8_values_at(b, i)), c = S::load_h(w1 + int8_values_at(b, i));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const H xi = broadcast_quad<S>(x[r], column + 4 * i);
          chains[r][0] = D::dot_quads(chains[r][0], xi, a);
          chains[r][1] = D::dot_quads(chains[r][1], xi, c);
        }
      }
      const auto s0 = S::load(shared.scales + at), s1 = S::load(shared.scales + at + S::kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto xs = S::set1(block_scale(x[r], columns, column / kInt8Block));
        total[r][0] = S::fma(S::to_float(chains[r][0]), S::mul(s0, xs), total[r][0]);
        total[r][1] = S::fma(S::to_float(chains[r][1]), S::mul(s1, xs), total[r][1]);
      }
    }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) S::store(sums_at<S>(sums, r, v), total[r][v]);
}

template <class D>
void int8_many(const PanelJob& job) {
  using S = typename D::Simd;
  by_chunks<S, Int8Panels<D>, S::kPanelTileRows>(
      job, [&](auto rows, const void* const* x, const Chunk& chunk, const auto& shared, int vector,
               float* sums) {
        int8_tile<D, decltype(rows)::value>(x, job.k, chunk, shared, vector, sums);
      });
}

template <class D>
void panel_dot_int8(const PanelJob& job) {
  if (job.rows == 0) return;
  if (job.rows > kInt8FewRows) return int8_many<D>(job);
  with_constant<kInt8FewRows>(job.rows, [&](auto rows) {
    constexpr int kRows = decltype(rows)::value;
    one_tile<Int8Span<D, kRows>, kRows>(job);
  });
}

}  // namespace
}  // namespace m3::cpu
