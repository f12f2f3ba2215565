// x Wᵀ, written once for every instruction set and number format. For isa_*.cc only.
//
// Each output is a dot product along K: a vector of lanes runs over the row of x and the row of W,
// and its lanes are added up at the end. So W is read as it lies in the file, row after row, at any
// address, and one row of x takes the same sums in the same order as many: decode and prefill agree
// bit for bit. A tile of kRowTile x 4 sums keeps the registers full.
//
// Few rows (decode) are limited by reading W: a tile runs over the whole of K, one row of W after
// the other where that is fast enough, so that W is one stream; the second-level cache is told 2
// KiB ahead. (Zen 4, two threads, of the read bandwidth: 0.95; without being told 0.86; four rows
// side by side 0.75; telling the first-level cache 0.72.) Many rows (prefill) are limited by
// multiplications: K is cut into column_block() columns, so that a tile's x and W come from the
// first- and second-level caches; the sums wait between two cuts as whole vectors, which changes no
// rounding.
//
// Measured on AMD EPYC (Zen 4), per core, K = 6144, with the time of the core alone (the machine
// was shared; bench/ops.cc measures all threads): share of the multiplication peak, 192 rows:
// avx512-bf16 0.90, avx512 0.91, avx2 0.88, x86-64 0.52; 16 rows the same.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_tile.h"
#include "backend/cpu/loops_weights.h"

namespace m3::cpu {
namespace {

inline bool is_few(const DotJob& job, int row_tile) {
  return job.rows <= row_tile;
}

// Columns [begin, end) of the job's outputs [first, last).
struct Piece {
  std::int64_t first, last;
  std::int64_t begin, end;
};

// All tiles of a piece. `w` starts at the piece's first output and column.
template <class D>
void run_tiles(const DotJob& job, const Piece& piece, const WeightTileRows& w) {
  constexpr int kRows = D::kRowTile;
  const bool streams = is_few(job, kRows);
  // One stream of weights where that is enough to keep the multiplier busy.
  const int outputs_max = streams && D::kParts == 1 ? 1 : 4;
  const std::int64_t vector_bytes = D::Simd::kLanes * 4;
  for (std::int64_t row = 0; row < job.rows; row += kRows) {
    const std::int64_t rows = job.rows - row < kRows ? job.rows - row : kRows;
    for (std::int64_t n = piece.first; n < piece.last;) {
      const Tile tile{job.x + row,
                      piece.begin / D::kStep,
                      round_up(piece.end - piece.begin, kPairColumns<D>) / D::kStep,
                      piece.begin == 0,
                      piece.end == job.k,
                      streams,
                      job.w.scale,
                      static_cast<char*>(job.scratch) + (row * kOutputBlock + n) * vector_bytes,
                      job.out + row * job.out_stride + n,
                      job.out_stride};
      const WeightTileRows here{w.base + (n - piece.first) * w.stride, w.stride};
      if (piece.last - n >= outputs_max && outputs_max == 4) {
        run_tile_of<D, 4, kRows>(rows, tile, here);
        n += 4;
      } else {
        run_tile_of<D, 1, kRows>(rows, tile, here);
        n += 1;
      }
    }
  }
}

inline char* decoded_weights(const DotJob& job) {
  return static_cast<char*>(job.scratch) + kRowBlock * kOutputBlock * kVectorBytesMax;
}

// Where a piece that is read in place and starts at `begin` ends: `begin` itself if it cannot be.
// Pieces begin at whole pairs of steps and at whole scale blocks.
template <class D>
std::int64_t in_place_end(const DotJob& job, std::int64_t begin, std::int64_t limit) {
  constexpr std::int64_t kUnit = kPairColumns<D> < kScaleColumns ? kScaleColumns : kPairColumns<D>;
  const std::int64_t whole = (job.k - begin) / kUnit * kUnit;
  return begin + (whole < limit ? whole : limit);
}

// Any format, by way of scratch; a ragged end is padded with zeros, as x is.
template <class D>
std::int64_t run_decoded(const DotJob& job, Piece piece) {
  piece.end = piece.begin + column_block<D>();
  if (piece.end > job.k) piece.end = job.k;
  const std::int64_t columns = piece.end - piece.begin;
  const std::int64_t stride = round_up(columns, kPairColumns<D>);
  auto* decoded = reinterpret_cast<std::uint16_t*>(decoded_weights(job));
  for (std::int64_t n = piece.first; n < piece.last; ++n, decoded += stride) {
    decode_row<typename D::Simd>(job.w, n, job.k, piece.begin, piece.end, decoded);
    for (std::int64_t k = columns; k < stride; ++k) decoded[k] = 0;
  }
  run_tiles<D>(job, piece, WeightTileRows{decoded_weights(job), stride * 2});
  return piece.end;
}

template <class D>
std::int64_t run_bf16(const DotJob& job, Piece piece) {
  const std::int64_t limit = is_few(job, D::kRowTile) ? job.k : column_block<D>();
  piece.end = in_place_end<D>(job, piece.begin, limit);
  if (piece.end == piece.begin) return run_decoded<D>(job, piece);
  const char* base =
      static_cast<const char*>(job.w.values) + (piece.first * job.k + piece.begin) * 2;
  run_tiles<D>(job, piece, WeightTileRows{base, job.k * 2});
  return piece.end;
}

template <class D>
void dot(const DotJob& job) {
  const std::int64_t group = is_few(job, D::kRowTile) ? 4 : kOutputBlock;
  for (std::int64_t n = 0; n < job.outputs; n += group) {
    Piece piece{n, n + group < job.outputs ? n + group : job.outputs, 0, 0};
    while (piece.begin < job.k) {
      piece.begin = job.w.format == WeightFormat::kBF16 ? run_bf16<D>(job, piece)
                                                        : run_decoded<D>(job, piece);
    }
  }
}

template <class S>
void dot_f32(const DotJob& job) {
  using D = F32Dot<S>;
  const std::int64_t group = is_few(job, D::kRowTile) ? 4 : kOutputBlock;
  const auto* weights = static_cast<const char*>(job.w.values);
  for (std::int64_t n = 0; n < job.outputs; n += group) {
    Piece piece{n, n + group < job.outputs ? n + group : job.outputs, 0, 0};
    for (; piece.begin < job.k; piece.begin = piece.end) {
      piece.end = in_place_end<D>(job, piece.begin, column_block<D>());
      const char* base = weights + (piece.first * job.k + piece.begin) * 4;
      if (piece.end != piece.begin) {
        run_tiles<D>(job, piece, WeightTileRows{base, job.k * 4});
        continue;
      }
      // The ragged end of each row, padded with zeros.
      piece.end = job.k;
      const std::int64_t columns = piece.end - piece.begin;
      const std::int64_t stride = round_up(columns, kPairColumns<D>);
      auto* padded = reinterpret_cast<float*>(decoded_weights(job));
      for (std::int64_t i = 0; i < piece.last - piece.first; ++i)
        for (std::int64_t k = 0; k < stride; ++k) {
          padded[i * stride + k] = 0;
          if (k < columns) __builtin_memcpy(padded + i * stride + k, base + (i * job.k + k) * 4, 4);
        }
      run_tiles<D>(job, piece, WeightTileRows{decoded_weights(job), stride * 4});
    }
  }
}

}  // namespace
}  // namespace m3::cpu
