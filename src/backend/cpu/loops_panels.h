// x Wᵀ for weights in panels of 16 outputs (panels.h). For isa_*.cc only; D as in loops_tile.h, P a
// format of loops_panel_codecs.h.
//
// Lanes run over the outputs; a pair of columns of x is broadcast to all of them. A block of
// columns is one chain of products from zero, in ascending order; the chain times the block's
// scales is added to the sum, block after block: in the order b = 0 .. 3 within a span (for scales
// of 16 columns: the first halves of the four, then the second). Few rows and many rows share that
// order, so decode and prefill agree bit for bit.
//
// Few rows (decode) are limited by reading the panel: it is decoded in registers, once for all
// rows. Many rows (prefill) are limited by multiplications: kChunkSpans spans of two panels are
// decoded into the first-level cache, and every row passes by.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_panel_codecs.h"

namespace m3::cpu {
namespace {

constexpr std::int64_t kChunkSpans = 2;
constexpr int kBlocks = kSpanColumns / 32;  // that lie side by side in a span

template <class S>
constexpr int kPanelVectors = static_cast<int>(kPanelOutputs) / S::kLanes;

// How a format fills a span.
template <class P>
struct SpanShape {
  static constexpr int kParts = 32 / P::kScaleColumns;  // scale blocks of a block
  static constexpr int kPairs = P::kScaleColumns / 2;   // of a scale block
  static constexpr int kLoads = kPairs / P::kVectors;   // of a scale block
  static constexpr std::int64_t kScaleBytes = scale_bytes_of_span(P::kFormat);
  static constexpr std::int64_t kBytes = span_bytes(P::kFormat);
  // The scales of block b's part, and load i of it.
  static constexpr std::int64_t scales_at(int part, int b) {
    return (part * kBlocks + b) * kPanelOutputs;
  }
  static constexpr std::int64_t values_at(int part, int b, int i) {
    return kScaleBytes + ((part * kLoads + i) * kBlocks + b) * 4 * kPanelOutputs;
  }
  // The first pair of columns, counted from the start of the span.
  static constexpr int pair_at(int part, int b) { return b * 16 + part * kPairs; }
};

// The value of x that column 2 * pair + part of W is multiplied by, in every lane.
template <class D>
auto broadcast_x(const void* row, std::int64_t pair, int part) {
  using S = typename D::Simd;
  if constexpr (D::kParts == 1) {
    return S::broadcast_pair(static_cast<const std::uint16_t*>(row) + 2 * pair);
  } else {
    const std::int64_t step = pair / S::kLanes;
    return S::set1(
        static_cast<const float*>(row)[(2 * step + part) * S::kLanes + pair % S::kLanes]);
  }
}

// Writes a vector of sums, times the weight's factor, as far as there are outputs.
template <class S>
void write_sums(typename S::F sums, float scale, std::int64_t outputs, float* out) {
  const auto scaled = S::mul(sums, S::set1(scale));
  if (outputs >= S::kLanes) {
    S::store(out, scaled);
  } else if (outputs > 0) {
    S::store_part(out, scaled, static_cast<int>(outputs));
  }
}

// One vector of outputs of a panel for kRows rows, decoded as it is read.
template <class D, class P, int kRows>
void panel_few(const PanelJob& job, const std::uint8_t* span, int vector, float* out,
               std::int64_t outputs) {
  using S = typename D::Simd;
  using F = typename S::F;
  using Shape = SpanShape<P>;
  const void* x[kRows];
  F sums[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    x[r] = job.x[r];
    sums[r] = S::zero();
  }
  const std::uint8_t* values = span + vector * S::kLanes * 4;
  const std::uint8_t* scales = span + vector * S::kLanes;
  const std::int64_t pairs = spans_of(job.k) * kSpanColumns / 2;
  for (std::int64_t first = 0; first < pairs; first += kSpanColumns / 2) {
    for (int part = 0; part < Shape::kParts; ++part) {
      F chains[kRows][kBlocks];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) chains[r][b] = S::zero();
#pragma GCC unroll 8
      for (int i = 0; i < Shape::kLoads; ++i)
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) {
          typename S::H w[P::kVectors];
          P::load(values + Shape::values_at(part, b, i), w);
#pragma GCC unroll 4
          for (int u = 0; u < P::kVectors; ++u)
#pragma GCC unroll 2
            for (int p = 0; p < D::kParts; ++p)
#pragma GCC unroll 8
              for (int r = 0; r < kRows; ++r)
                chains[r][b] = D::multiply_add(
                    D::part(w[u], p),
                    broadcast_x<D>(x[r], first + Shape::pair_at(part, b) + i * P::kVectors + u, p),
                    chains[r][b]);
        }
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) {
        const F scale = P::scales(scales + Shape::scales_at(part, b));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sums[r] = S::fma(chains[r][b], scale, sums[r]);
      }
    }
    values += Shape::kBytes;
    scales += Shape::kBytes;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
    write_sums<S>(sums[r], job.scale, outputs, out + r * job.out_stride);
}

// Two panels of a chunk of columns, decoded: for each scale block its pairs, [pair][32 outputs],
// and its scales, [32 outputs].
template <class D, class P>
struct DecodedChunk {
  using S = typename D::Simd;
  static constexpr int kVectors = 2 * kPanelVectors<S>;
  static constexpr std::int64_t kScaleBlocks = kChunkSpans * SpanShape<P>::kParts * kBlocks;
  alignas(64) std::uint16_t pairs[kScaleBlocks * SpanShape<P>::kPairs * 2 * kOutputBlock];
  alignas(64) float scales[kScaleBlocks * kOutputBlock];

  // Spans [first, first + spans) of `panels` (one or two) at job.panels.
  void decode(const PanelJob& job, std::int64_t panels, std::int64_t first, std::int64_t spans) {
    using Shape = SpanShape<P>;
    for (std::int64_t n = 0; n < panels; ++n) {
      const std::uint8_t* span = reinterpret_cast<const std::uint8_t*>(job.panels) +
                                 n * panel_bytes(P::kFormat, job.k) + first * Shape::kBytes;
      for (std::int64_t s = 0; s < spans; ++s, span += Shape::kBytes)
        for (int part = 0; part < Shape::kParts; ++part)
          for (int v = 0; v < kPanelVectors<S>; ++v) {
            const std::int64_t to = n * kPanelVectors<S> + v;
            decode_part(span, s, part, v, to);
          }
    }
  }

 private:
  void decode_part(const std::uint8_t* span, std::int64_t s, int part, int vector,
                   std::int64_t to) {
    using Shape = SpanShape<P>;
    for (int i = 0; i < Shape::kLoads; ++i)
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) {
        typename S::H w[P::kVectors];
        P::load(span + Shape::values_at(part, b, i) + vector * S::kLanes * 4, w);
        const std::int64_t block = (s * Shape::kParts + part) * kBlocks + b;
#pragma GCC unroll 4
        for (int u = 0; u < P::kVectors; ++u)
          S::store_h(pairs + ((block * Shape::kPairs + i * P::kVectors + u) * kVectors + to) * 2 *
                                 S::kLanes,
                     w[u]);
      }
    for (int b = 0; b < kBlocks; ++b) {
      const std::int64_t block = (s * Shape::kParts + part) * kBlocks + b;
      S::store(scales + block * kOutputBlock + to * S::kLanes,
               P::scales(span + Shape::scales_at(part, b) + vector * S::kLanes));
    }
  }
};

// Two vectors of outputs for kRows rows; sums [rows, kOutputBlock] wait between chunks.
template <class D, class P, int kRows>
void panel_tile(const DecodedChunk<D, P>& chunk, const void* const* x, std::int64_t first_pair,
                std::int64_t spans, int vector, bool begins, float* sums) {
  using S = typename D::Simd;
  using F = typename S::F;
  using Shape = SpanShape<P>;
  constexpr int kVectors = DecodedChunk<D, P>::kVectors;
  F total[kRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v)
      total[r][v] =
          begins ? S::zero() : S::load(sums + r * kOutputBlock + (vector + v) * S::kLanes);
  const std::uint16_t* w = chunk.pairs + vector * 2 * S::kLanes;
  const float* scales = chunk.scales + vector * S::kLanes;
  for (std::int64_t s = 0; s < spans; ++s, first_pair += kSpanColumns / 2)
    for (int block = 0; block < Shape::kParts * kBlocks; ++block) {
      const std::int64_t pair = first_pair + Shape::pair_at(block / kBlocks, block % kBlocks);
      F chains[kRows][2];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) chains[r][0] = chains[r][1] = S::zero();
#pragma GCC unroll 4
      for (int i = 0; i < Shape::kPairs; ++i, w += kVectors * 2 * S::kLanes) {
        const auto w0 = D::load_w(w), w1 = D::load_w(w + 2 * S::kLanes);
#pragma GCC unroll 2
        for (int p = 0; p < D::kParts; ++p)
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) {
            const auto xi = broadcast_x<D>(x[r], pair + i, p);
            chains[r][0] = D::multiply_add(D::part(w0, p), xi, chains[r][0]);
            chains[r][1] = D::multiply_add(D::part(w1, p), xi, chains[r][1]);
          }
      }
      const F s0 = S::load(scales), s1 = S::load(scales + S::kLanes);
      scales += kOutputBlock;
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        total[r][0] = S::fma(chains[r][0], s0, total[r][0]);
        total[r][1] = S::fma(chains[r][1], s1, total[r][1]);
      }
    }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v)
      S::store(sums + r * kOutputBlock + (vector + v) * S::kLanes, total[r][v]);
}

// Makes the number of rows a constant.
template <class D, class P, int kRows>
void panel_tile_of(std::int64_t rows, const DecodedChunk<D, P>& chunk, const void* const* x,
                   std::int64_t first_pair, std::int64_t spans, int vector, bool begins,
                   float* sums) {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return panel_tile_of<D, P, kRows - 1>(rows, chunk, x, first_pair, spans, vector, begins,
                                            sums);
  }
  panel_tile<D, P, kRows>(chunk, x, first_pair, spans, vector, begins, sums);
}

template <class S>
void write_block(const PanelJob& job, const float* sums) {
  for (std::int64_t r = 0; r < job.rows; ++r)
    for (std::int64_t n = 0; n < job.outputs; n += S::kLanes)
      write_sums<S>(S::load(sums + r * kOutputBlock + n), job.scale, job.outputs - n,
                    job.out + r * job.out_stride + n);
}

template <class D, class P>
void panel_many(const PanelJob& job) {
  using S = typename D::Simd;
  constexpr int kRows = S::kPanelTileRows;
  auto* sums = static_cast<float*>(job.scratch);
  auto* chunk = reinterpret_cast<DecodedChunk<D, P>*>(sums + kRowBlock * kOutputBlock);
  static_assert(sizeof(DecodedChunk<D, P>) + kRowBlock * kOutputBlock * 4 <= kDotScratchBytes);
  const std::int64_t panels = (job.outputs + kPanelOutputs - 1) / kPanelOutputs;
  const int vectors = static_cast<int>(panels) * kPanelVectors<S>;
  const std::int64_t spans = spans_of(job.k);
  for (std::int64_t span = 0; span < spans; span += kChunkSpans) {
    const std::int64_t here = spans - span < kChunkSpans ? spans - span : kChunkSpans;
    chunk->decode(job, panels, span, here);
    for (std::int64_t row = 0; row < job.rows; row += kRows)
      for (int v = 0; v < vectors; v += 2)
        panel_tile_of<D, P, kRows>(job.rows - row, *chunk, job.x + row, span * kSpanColumns / 2,
                                   here, v, span == 0, sums + row * kOutputBlock);
  }
  write_block<S>(job, sums);
}

// Makes the number of rows a constant.
template <class D, class P, int kRows>
void panel_few_of(const PanelJob& job) {
  using S = typename D::Simd;
  if constexpr (kRows > 1) {
    if (job.rows < kRows) return panel_few_of<D, P, kRows - 1>(job);
  }
  const auto* panel = reinterpret_cast<const std::uint8_t*>(job.panels);
  for (std::int64_t n = 0; n < job.outputs; n += kPanelOutputs) {
    for (int v = 0; v < kPanelVectors<S>; ++v) {
      const std::int64_t at = n + v * S::kLanes;
      panel_few<D, P, kRows>(job, panel, v, job.out + at, job.outputs - at);
    }
    panel += panel_bytes(P::kFormat, job.k);
  }
}

template <class D, class P>
void panel_product(const PanelJob& job) {
  if (job.rows <= D::Simd::kPanelFewRows) {
    panel_few_of<D, P, D::Simd::kPanelFewRows>(job);
  } else {
    panel_many<D, P>(job);
  }
}

template <class D>
void panel_dot(const PanelJob& job) {
  using S = typename D::Simd;
  if (job.rows == 0) return;
  switch (job.format) {
    case WeightFormat::kMxfp8:
      return panel_product<D, Mxfp8Panel<S>>(job);
    case WeightFormat::kMxfp4:
      return panel_product<D, Mxfp4Panel<S>>(job);
    case WeightFormat::kNvfp4:
      return panel_product<D, Nvfp4Panel<S>>(job);
    default:  // kInt8, whose x is packed otherwise, has panel_dot_int8
      __builtin_unreachable();
  }
}

}  // namespace
}  // namespace m3::cpu
