// x Wᵀ for weights in panels of 16 outputs (panels.h). For isa_*.cc only; D as in loops_tile.h, P a
// format of loops_panel_codecs.h.
//
// Lanes run over the outputs; a pair of columns of x is broadcast to all of them. A block of
// columns is one chain of products from zero, in ascending order (beside tiles, one of its even
// columns and one of its odd ones); it times the block's scales is added to the sum, block after
// block. Few rows and many rows share that order, so decode and prefill agree bit for bit.
//
// Where bfloat16 is multiplied as it is, panels are decoded in registers, once for every
// kPanelTileRows rows, in the shadow of their multiplications: rows pass by some columns of a group
// that stay in the second-level cache. Memory is read in one stream, and a span of x serves all
// panels of the group while it is in the first-level cache: weights that come from memory drive x
// out of it, and then its misses keep the processor from running ahead (Zen 4, one core, one row of
// MXFP4: 0.75 of the read bandwidth panel by panel, 0.96 so).
// Where it is widened, that is only so for few rows; for many, chunks of two panels are widened
// into the first-level cache, and rows pass by those; between chunks the sums wait in scratch.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_panel_codecs.h"
#include "backend/cpu/loops_row_tiles.h"

namespace m3::cpu {
namespace {

template <class S>
constexpr int kPanelVectors = static_cast<int>(kPanelOutputs) / S::kLanes;

// How a format fills a span (panels.h).
template <class P>
struct SpanShape {
  static constexpr int kBlockColumns = static_cast<int>(block_columns(P::kFormat));
  static constexpr int kBlocks = static_cast<int>(kSpanColumns) / kBlockColumns;
  static constexpr int kTurns = static_cast<int>(blocks_in_turns(P::kFormat));
  static constexpr int kPairs = kBlockColumns / 2;     // of a block's columns
  static constexpr int kLoads = kPairs / P::kVectors;  // of a block
  static constexpr std::int64_t scales_at(int block) { return block * kPanelOutputs; }
  static constexpr std::int64_t values_at(int block, int load) {
    return scale_bytes_of_span(P::kFormat) +
           ((block / kTurns * kLoads + load) * kTurns + block % kTurns) * 4 * kPanelOutputs;
  }
};

// What D multiplies of a load: each vector of pairs, in parts.
template <class D, class P>
struct Parts {
  decltype(D::part(typename D::W{}, 0)) parts[P::kVectors][D::kParts];
};

template <class D, class P>
void load_parts(const std::uint8_t* p, Parts<D, P>& w) {
  if constexpr (D::kParts == 2 && P::kWidens) {
    P::load_wide(p, w.parts);
  } else {
    typename D::Simd::H pairs[P::kVectors];
    P::load(p, pairs);
#pragma GCC unroll 4
    for (int u = 0; u < P::kVectors; ++u)
#pragma GCC unroll 2
      for (int i = 0; i < D::kParts; ++i) w.parts[u][i] = D::part(pairs[u], i);
  }
}
// The scales that belong to them.
template <class D, class P>
auto part_scales(const std::uint8_t* p) {
  if constexpr (D::kParts == 2 && P::kWidens) {
    return P::wide_scales(p);
  } else {
    return P::scales(p);
  }
}

// Where a pair of columns lies in a packed row.
template <class D>
const char* x_at(const void* row, std::int64_t pair) {
  const auto* bytes = static_cast<const char*>(row);
  if constexpr (D::kParts == 1) return bytes + pair * 4;
  constexpr std::int64_t kPairs = D::kStep / 2;
  return bytes + pair / kPairs * D::kPackedStepBytes + pair % kPairs * 4;
}
// What part `part` of a pair of W is multiplied by, in every lane: the column of the n-th pair
// after the one at x, with no start of a step between, or whole steps.
template <class D>
auto broadcast_x(const char* x, int n, int part) {
  using S = typename D::Simd;
  const char* at = x_at<D>(x, n);
  if constexpr (D::kParts == 1) {
    return S::broadcast_pair(reinterpret_cast<const std::uint16_t*>(at));
  } else {
    return S::set1(reinterpret_cast<const float*>(at)[part * S::kLanes]);
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

// From a panel's span to its next.
inline std::int64_t span_stride(const PanelJob& job) {
  return panels_of(job.outputs) * span_bytes(job.format);
}
// The panel's span `span` of a job.
inline const std::uint8_t* span_at(const PanelJob& job, std::int64_t panel, std::int64_t span) {
  return reinterpret_cast<const std::uint8_t*>(job.group) + span * span_stride(job) +
         panel * span_bytes(job.format);
}

// In sums [rows, kGroupOutputs] of a group, those of a row's `vector`.
template <class S>
float* sums_at(float* sums, std::int64_t row, int vector) {
  return sums + row * kGroupOutputs + vector * S::kLanes;
}

// The job's outputs of `rows` rows from `row` on.
template <class S>
void write_block(const PanelJob& job, std::int64_t row, std::int64_t rows, const float* sums) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t n = 0; n < job.outputs; n += S::kLanes)
      write_sums<S>(S::load(sums + r * kGroupOutputs + n), job.scale, job.outputs - n,
                    job.out + (row + r) * job.out_stride + n);
}

// How a tile sees to it that weights are there when it wants them.
enum class Ahead {
  kNothing,  // other tiles use them too
  kSpans,    // ReadAhead::kSpans
  kLines     // ReadAhead::kLines
};

// How far ahead whole spans are asked for where Span::kAsksForSpans: weights come from memory, and
// multiplications keep the processor from running ahead (Zen 4, one core, 2 rows of MXFP8: 0.88 of
// the read bandwidth, 0.77 without, 0.68 with 4 KiB). Where they leave it time, it loses by being
// asked (4 rows of bfloat16: 0.90 without, 0.70 with 8 KiB; 6 rows: 0.73 and 0.83).
constexpr std::int64_t kPanelAhead = 8192;

// Asks for what lies some KiB behind a line that is about to be read: farther for the second-level
// cache than for the first, so that few lines wait for memory in the buffers through which all of
// the first go (Emerald Rapids, one core, share of the read bandwidth: one row of bfloat16 0.70
// without, 0.92 with the first alone, 0.99; of MXFP4 0.53, 0.82, 0.95).
inline void ask_ahead(const std::uint8_t* line) {
  __builtin_prefetch(line + 16384, 0, 2);
  __builtin_prefetch(line + 4096, 0, 3);
}

// Products of kRows rows with a span of a panel, of which each vector of outputs is decoded as it
// is read.
template <class D, class P, int kRows>
class DecodedSpan {
 public:
  using S = typename D::Simd;
  using F = typename S::F;
  static constexpr std::int64_t kXBytes = kSpanColumns / D::kStep * D::kPackedStepBytes;
  static constexpr bool kAsksForSpans = kRows > P::kRowsWithoutAsking;

  DecodedSpan(const PanelJob& job, std::int64_t row) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) x_[r] = job.x[row + r];
  }

  // Adds those of span s, at `span`, to `total`, a vector for each row.
  template <Ahead kAhead>
  [[gnu::always_inline]] void add(std::int64_t s, const std::uint8_t* span, int vector,
                                  F (&total)[kRows]) const {
    const std::uint8_t* values = span + vector * S::kLanes * 4;
    const std::uint8_t* scales = span + vector * S::kLanes;
    const std::int64_t first = s * kSpanColumns / 2;
#pragma GCC unroll 1
    for (int b0 = 0; b0 < Shape::kBlocks; b0 += kSide) {
      F chains[kRows][kSide][kChains];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int b = 0; b < kSide; ++b)
#pragma GCC unroll 2
          for (int c = 0; c < kChains; ++c) chains[r][b][c] = S::zero();
#pragma GCC unroll 1
      for (int i0 = 0; i0 < Shape::kLoads; i0 += kLoadsTogether) {
        // Several rows keep pointers (else many rows of MXFP8 fall from 0.83 to 0.67 of the peak),
        // one does without (0.96 of the read bandwidth, and 0.92). So GCC 12 would have it.
        const std::int64_t pair = first + b0 * Shape::kPairs + i0 * P::kVectors;
        const char* kept[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) kept[r] = x_at<D>(x_[r], pair);
#pragma GCC unroll 8
        for (int i = 0; i < kLoadsTogether; ++i)
#pragma GCC unroll 4
          for (int b = 0; b < kSide; ++b) {
            Parts<D, P> w;
            const std::uint8_t* here = values + Shape::values_at(b0 + b, i0 + i);
            if (kAhead == Ahead::kSpans && kRows == 1 && P::kNear > 0)
              __builtin_prefetch(here + P::kNear);
            if (kAhead == Ahead::kLines && vector == 0) ask_ahead(here);
            load_parts<D, P>(here, w);
#pragma GCC unroll 4
            for (int u = 0; u < P::kVectors; ++u)
#pragma GCC unroll 2
              for (int p = 0; p < D::kParts; ++p)
#pragma GCC unroll 8
                for (int r = 0; r < kRows; ++r) {
                  F& chain = chains[r][b][p % kChains];
                  chain =
                      D::multiply_add(w.parts[u][p],
                                      broadcast_x<D>(kRows > 1 ? kept[r] : x_at<D>(x_[r], pair),
                                                     b * Shape::kPairs + i * P::kVectors + u, p),
                                      chain);
                }
          }
      }
#pragma GCC unroll 4
      for (int b = 0; b < kSide; ++b) {
        const F scale = part_scales<D, P>(scales + Shape::scales_at(b0 + b));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) total[r] = S::fma(sum_of(chains[r][b]), scale, total[r]);
      }
    }
  }

 private:
  using Shape = SpanShape<P>;
  static constexpr int kChains = D::kChainsOfBlock;
  // Blocks side by side: where each has two products for every pair of columns, the chains of one
  // or two rows would wait for themselves.
  static constexpr int kSide = Shape::kTurns * (D::kParts > kChains && kRows <= 2 ? 2 : 1);
  // Unrolled further, the loop would leave the processor's cache of decoded instructions.
  static constexpr int kLoadsTogether =
      D::kParts == 1 || Shape::kLoads < 4 / P::kVectors ? Shape::kLoads : 4 / P::kVectors;

  static F sum_of(const F (&chains)[kChains]) {
    if constexpr (kChains == 1) {
      return chains[0];
    } else {
      return S::add(chains[0], chains[1]);
    }
  }

  const void* x_[kRows];
};

// Some spans of all outputs of a job.
struct Chunk {
  std::int64_t first, spans;
  bool begins() const { return first == 0; }
  std::int64_t first_pair() const { return first * kSpanColumns / 2; }
};

// Adds a chunk's products of kRows rows to sums [kRows, kGroupOutputs], span by span. Span is as
// DecodedSpan.
template <class Span, int kRows, Ahead kAhead>
[[gnu::noinline]] void group_tile(const PanelJob& job, const Chunk& chunk, std::int64_t row,
                                  float* sums) {
  using S = typename Span::S;
  using F = typename S::F;
  const std::int64_t panels = panels_of(job.outputs);
  const Span product(job, row);
  if (chunk.begins())
    for (std::int64_t i = 0; i < kRows * kGroupOutputs; i += S::kLanes)
      S::store(sums + i, S::zero());
  // Rows that pass by next are asked for as these do: the processor does not know where they begin.
  const std::int64_t next = row + 2 * kRows <= job.rows ? row + kRows : 0;
  const std::int64_t bytes = span_bytes(job.format);
  const std::uint8_t* span = span_at(job, 0, chunk.first);
  for (std::int64_t s = chunk.first; s < chunk.first + chunk.spans; ++s) {
    if (next > 0)
      for (int r = 0; r < kRows; ++r)
        for (std::int64_t at = 0; at < Span::kXBytes; at += 64)
          __builtin_prefetch(static_cast<const char*>(job.x[next + r]) + s * Span::kXBytes + at, 0,
                             2);
    for (int panel = 0; panel < panels; ++panel, span += bytes) {
      if (kAhead == Ahead::kSpans && Span::kAsksForSpans)
        for (std::int64_t at = 0; at < bytes; at += 64)
          __builtin_prefetch(span + kPanelAhead + at, 0, 2);
      if (kAhead == Ahead::kLines)
        for (std::int64_t at = 0; at < scale_bytes_of_span(job.format); at += 64)
          ask_ahead(span + at);
      for (int vector = 0; vector < kPanelVectors<S>; ++vector) {
        float* here = sums_at<S>(sums, 0, panel * kPanelVectors<S> + vector);
        F total[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) total[r] = S::load(here + r * kGroupOutputs);
        product.template add<kAhead>(s, span, vector, total);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) S::store(here + r * kGroupOutputs, total[r]);
      }
    }
  }
}

// All of a job of so few rows that they are one tile.
template <class Span, int kRows>
void one_tile(const PanelJob& job) {
  auto* sums = static_cast<float*>(job.scratch);
  const Chunk all{0, spans_of(job.k)};
  if (job.ahead == ReadAhead::kLines) {
    group_tile<Span, kRows, Ahead::kLines>(job, all, 0, sums);
  } else {
    group_tile<Span, kRows, Ahead::kSpans>(job, all, 0, sums);
  }
  write_block<typename Span::S>(job, 0, kRows, sums);
}

// Of a group, in the second-level cache.
constexpr std::int64_t kGroupChunkBytes = 256 * 1024;

// Chunks that stay in the second-level cache while tiles of rows pass by.
template <class D, class P>
void by_groups(const PanelJob& job) {
  using S = typename D::Simd;
  auto* sums = static_cast<float*>(job.scratch);
  static_assert(kPanelRowsMax * kGroupOutputs * 4 <= kDotScratchBytes);
  const std::int64_t spans = spans_of(job.k), chunk_spans = kGroupChunkBytes / span_stride(job);
  for (std::int64_t first = 0; first < spans; first += chunk_spans) {
    const Chunk chunk{first, spans - first < chunk_spans ? spans - first : chunk_spans};
    for_row_tiles<S::kPanelTileRows>(job.rows, [&](auto rows, std::int64_t row) {
      constexpr int kRows = decltype(rows)::value;
      group_tile<DecodedSpan<D, P, kRows>, kRows, Ahead::kNothing>(job, chunk, row,
                                                                   sums + row * kGroupOutputs);
    });
  }
  write_block<S>(job, 0, job.rows, sums);
}

// The frame of many rows where vectors are narrow: chunks that stay in the first-level cache.
constexpr std::int64_t kChunkRows = 192;

// One or two panels of a chunk of at most kChunkSpans, decoded: for each block its pairs,
// [pair][32 outputs], and its scales, [32 outputs].
template <class D, class P>
struct DecodedPanels {
  using S = typename D::Simd;
  using Shape = SpanShape<P>;
  static constexpr int kVectors = 2 * kPanelVectors<S>;
  static constexpr std::int64_t kOutputs = 2 * kPanelOutputs;
  static constexpr std::int64_t kSpans = 1;
  static constexpr std::int64_t kXBytes = kSpanColumns / D::kStep * D::kPackedStepBytes;
  alignas(64) float values[kSpans * kSpanColumns * kOutputs];
  alignas(64) float scales[kSpans * Shape::kBlocks * kOutputs];

  void prepare(const PanelJob& job, const Chunk& chunk, std::int64_t panel, std::int64_t panels) {
    for (std::int64_t n = 0; n < panels; ++n)
      for (std::int64_t s = 0; s < chunk.spans; ++s)
        for (int v = 0; v < kPanelVectors<S>; ++v)
          decode(span_at(job, panel + n, chunk.first + s), s, v, n * kPanelVectors<S> + v);
  }

 private:
  void decode(const std::uint8_t* span, std::int64_t s, int vector, std::int64_t to) {
    for (int b = 0; b < Shape::kBlocks; ++b) {
      const std::int64_t block = s * Shape::kBlocks + b;
      for (int i = 0; i < Shape::kLoads; ++i) {
        Parts<D, P> w;
        load_parts<D, P>(span + Shape::values_at(b, i) + vector * S::kLanes * 4, w);
#pragma GCC unroll 4
        for (int u = 0; u < P::kVectors; ++u)
#pragma GCC unroll 2
          for (int p = 0; p < D::kParts; ++p)
            S::store(values + (((block * Shape::kPairs + i * P::kVectors + u) * D::kParts + p) *
                                   kVectors +
                               to) *
                                  S::kLanes,
                     w.parts[u][p]);
      }
      S::store(scales + block * kOutputs + to * S::kLanes,
               part_scales<D, P>(span + Shape::scales_at(b) + vector * S::kLanes));
    }
  }
};

// Two vectors of decoded outputs, from `vector` on, for kRows rows.
template <class D, class P, int kRows>
[[gnu::noinline]] void panel_tile(const void* const* x, const Chunk& chunk,
                                  const DecodedPanels<D, P>& decoded, int vector, float* sums) {
  using S = typename D::Simd;
  using F = typename S::F;
  using Shape = SpanShape<P>;
  using Decoded = DecodedPanels<D, P>;
  F total[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v)
      total[r][v] = chunk.begins() ? S::zero() : S::load(sums_at<S>(sums, r, v));
  const float* w = decoded.values + vector * S::kLanes;
  const float* scales = decoded.scales + vector * S::kLanes;
  std::int64_t pair = chunk.first_pair();
  for (std::int64_t block = 0; block < chunk.spans * Shape::kBlocks;
       ++block, pair += Shape::kPairs) {
    F chains[kRows][2];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) chains[r][0] = chains[r][1] = S::zero();
#pragma GCC unroll 1
    for (int i0 = 0; i0 < Shape::kPairs; i0 += 4) {
      const char* kept[kRows];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) kept[r] = x_at<D>(x[r], pair + i0);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
#pragma GCC unroll 2
        for (int p = 0; p < D::kParts; ++p, w += Decoded::kOutputs) {
          const F w0 = S::load(w), w1 = S::load(w + S::kLanes);
#pragma GCC unroll 16
          for (int r = 0; r < kRows; ++r) {
            const F xi = broadcast_x<D>(kept[r], i, p);
            chains[r][0] = D::multiply_add(w0, xi, chains[r][0]);
            chains[r][1] = D::multiply_add(w1, xi, chains[r][1]);
          }
        }
    }
    const F s0 = S::load(scales), s1 = S::load(scales + S::kLanes);
    scales += Decoded::kOutputs;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      total[r][0] = S::fma(chains[r][0], s0, total[r][0]);
      total[r][1] = S::fma(chains[r][1], s1, total[r][1]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) S::store(sums_at<S>(sums, r, v), total[r][v]);
}

// Rows [first, last), `most` at most, which pass by next: the processor does not know where their
// parts begin (Zen 4 with AVX-512, 2,048 x 3072 x 6144 in bfloat16: 0.80 of the peak, 0.75 without;
// asked for in the first-level cache 0.70).
inline void ask_for_rows(const PanelJob& job, std::int64_t first, std::int64_t last,
                         std::int64_t most, std::int64_t offset, std::int64_t bytes) {
  for (std::int64_t r = first; r < last && r < first + most; ++r)
    for (std::int64_t at = 0; at < bytes; at += 64)
      __builtin_prefetch(static_cast<const char*>(job.x[r]) + offset + at, 0, 2);
}

// The frame of many rows, S's vectors being narrow or its numbers 8-bit: blocks of rows, chunks,
// pairs of panels, and all rows of the block for each pair. Shared is what these rows share of a
// pair: shared.prepare(job, chunk, panel, panels) makes it for `panels` (one or two) from `panel`
// on. run_tile(rows as a constant, x, chunk, shared, vector, sums) adds the chunk's sums of
// the pair's vectors `vector` and vector + 1 to `sums`, which is as by sums_at().
template <class S, class Shared, int kTileRows, class RunTile>
void by_chunks(const PanelJob& job, RunTile run_tile) {
  auto* sums = static_cast<float*>(job.scratch);
  auto* shared = reinterpret_cast<Shared*>(sums + kChunkRows * kGroupOutputs);
  static_assert(kChunkRows * kGroupOutputs * 4 + sizeof *shared <= kDotScratchBytes);
  const std::int64_t panels = panels_of(job.outputs), spans = spans_of(job.k);
  for (std::int64_t row = 0; row < job.rows; row += kChunkRows) {
    const std::int64_t rows = job.rows - row < kChunkRows ? job.rows - row : kChunkRows;
    for (std::int64_t first = 0; first < spans; first += Shared::kSpans) {
      const Chunk chunk{first, spans - first < Shared::kSpans ? spans - first : Shared::kSpans};
      for (std::int64_t n = 0; n < panels; n += 2) {
        const std::int64_t here = panels - n < 2 ? panels - n : 2;
        shared->prepare(job, chunk, n, here);
        for_row_tiles<kTileRows>(rows, [&](auto constant, std::int64_t r) {
          const std::int64_t next = r + decltype(constant)::value;
          if (n == 0)
            ask_for_rows(job, row + next, row + rows, kTileRows, chunk.first * Shared::kXBytes,
                         Shared::kXBytes);
          for (int v = 0; v < static_cast<int>(here) * kPanelVectors<S>; v += 2)
            run_tile(constant, job.x + row + r, chunk, *shared, v,
                     sums_at<S>(sums, r, static_cast<int>(n) * kPanelVectors<S> + v));
        });
      }
    }
    write_block<S>(job, row, rows, sums);
  }
}

template <class D, class P>
void panel_product(const PanelJob& job) {
  using S = typename D::Simd;
  if (job.rows <= S::kLonePanelTileRows)
    return with_constant<S::kLonePanelTileRows>(job.rows, [&](auto rows) {
      constexpr int kRows = decltype(rows)::value;
      one_tile<DecodedSpan<D, P, kRows>, kRows>(job);
    });
  if constexpr (D::kParts == 1) {
    by_groups<D, P>(job);
  } else {
    by_chunks<S, DecodedPanels<D, P>, S::kChunkTileRows>(
        job, [](auto rows, const void* const* x, const Chunk& chunk, const auto& decoded,
                int vector, float* sums) {
          panel_tile<D, P, decltype(rows)::value>(x, chunk, decoded, vector, sums);
        });
  }
}

}  // namespace
}  // namespace m3::cpu
