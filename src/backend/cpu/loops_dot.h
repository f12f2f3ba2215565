// x Wᵀ, written once for every instruction set and number format. For isa_*.cc only.
//
// Each output is a dot product along K: a vector of lanes runs over the row of x and the row of W,
// and its lanes are added up at the end. So W is read as it lies in the file, row after row, at any
// address, and one row of x takes the same sums in the same order as many: decode and prefill agree
// bit for bit. A tile of kRowTile x 4 sums keeps the registers full.
//
// K is cut into blocks of column_block() columns; lanes are added up at the end of each block.
// Few rows (decode) are limited by reading W: four rows of W at a time are read to their ends. Many
// rows (prefill) are limited by multiplications: all rows pass by a block of the job's weights,
// which stays in the second-level cache, a tile's x in the first. What comes from memory is asked
// for four rows of W ahead (Zen 4, two threads, 4 and 16 rows: 0.30 and 0.67 of the multiplication
// peak, 0.22 and 0.56 with 2 KiB).
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

// The tile of `rows` rows from `row` on and of kOutputs outputs from `n` on.
template <class D, int kOutputs>
void run_tile_at(const DotJob& job, const Piece& piece, const WeightTileRows& w, std::int64_t row,
                 std::int64_t rows, std::int64_t n) {
  const Tile tile{job.x + row,
                  piece.begin / D::kStep,
                  round_up(piece.end - piece.begin, kPairColumns<D>) / D::kStep,
                  piece.begin == 0,
                  piece.end == job.k,
                  row == 0 ? kOutputs * w.stride : 0,
                  job.w.scale,
                  job.out + row * job.out_stride + n,
                  job.out_stride};
  run_tile_of<D, kOutputs, D::kRowTile>(rows, tile,
                                        {w.base + (n - piece.first) * w.stride, w.stride});
}

// The same columns of the next rows are asked for as the outputs of these pass by, part by part.
template <class D>
void ask_for_next_rows(const DotJob& job, const Piece& piece, std::int64_t row, std::int64_t rows,
                       std::int64_t n) {
  const std::int64_t next = row + rows, end = next + rows < job.rows ? next + rows : job.rows;
  for (std::int64_t r = next; r < end; ++r)
    prefetch_part(static_cast<const char*>(job.x[r]) + piece.begin / D::kStep * D::kPackedStepBytes,
                  (piece.end - piece.begin) / D::kStep * D::kPackedStepBytes, (n - piece.first) / 4,
                  (piece.last - piece.first + 3) / 4);
}

// All tiles of a piece of one column block. `w` starts at the piece's first output and column.
template <class D>
void run_tiles(const DotJob& job, const Piece& piece, const WeightTileRows& w) {
  const std::int64_t tiles = (job.rows + D::kRowTile - 1) / D::kRowTile;
  for (std::int64_t i = 0; i < tiles; ++i) {
    // As equal as can be: a row alone would wait for its own additions.
    const std::int64_t row = job.rows * i / tiles, rows = job.rows * (i + 1) / tiles - row;
    for (std::int64_t n = piece.first; n < piece.last;) {
      const std::int64_t left = piece.last - n;
      if (left >= 4) {
        if (tiles > 1) ask_for_next_rows<D>(job, piece, row, rows, n);
        run_tile_at<D, 4>(job, piece, w, row, rows, n);
        n += 4;
      } else {
        run_tile_at<D, 1>(job, piece, w, row, rows, n);
        n += 1;
      }
    }
  }
}

inline char* decoded_weights(const DotJob& job) {
  return static_cast<char*>(job.scratch);
}

// Where the column block that starts at `begin` ends.
template <class D>
std::int64_t block_end(const DotJob& job, std::int64_t begin) {
  return job.k - begin < column_block<D>() ? job.k : begin + column_block<D>();
}

// Whether vectors of W end where the piece does.
template <class D>
bool is_whole(const Piece& piece) {
  return (piece.end - piece.begin) % kPairColumns<D> == 0;
}

// Any format, by way of scratch; a ragged end is padded with zeros, as x is.
template <class D>
void run_decoded(const DotJob& job, const Piece& piece) {
  const std::int64_t columns = piece.end - piece.begin;
  const std::int64_t stride = round_up(columns, kPairColumns<D>);
  auto* decoded = reinterpret_cast<std::uint16_t*>(decoded_weights(job));
  for (std::int64_t n = piece.first; n < piece.last; ++n, decoded += stride) {
    decode_row<typename D::Simd>(job.w, n, job.k, piece.begin, piece.end, decoded);
    for (std::int64_t k = columns; k < stride; ++k) decoded[k] = 0;
  }
  run_tiles<D>(job, piece, WeightTileRows{decoded_weights(job), stride * 2});
}

template <class D>
void run_bf16(const DotJob& job, const Piece& piece) {
  if (!is_whole<D>(piece)) return run_decoded<D>(job, piece);
  const char* base =
      static_cast<const char*>(job.w.values) + (piece.first * job.k + piece.begin) * 2;
  run_tiles<D>(job, piece, WeightTileRows{base, job.k * 2});
}

// Calls f(piece) for all of a job: few outputs to the ends of their rows, or all outputs block by
// block.
template <class D, class F>
void for_pieces(const DotJob& job, F f) {
  const std::int64_t group = is_few(job, D::kRowTile) ? 4 : kOutputBlock;
  for (std::int64_t n = 0; n < job.outputs; n += group)
    for (std::int64_t begin = 0; begin < job.k; begin = block_end<D>(job, begin))
      f(Piece{n, n + group < job.outputs ? n + group : job.outputs, begin,
              block_end<D>(job, begin)});
}

template <class D>
void dot(const DotJob& job) {
  for_pieces<D>(job, [&](const Piece& piece) {
    if (job.w.format == WeightFormat::kBF16) {
      run_bf16<D>(job, piece);
    } else {
      run_decoded<D>(job, piece);
    }
  });
}

template <class S>
void dot_f32(const DotJob& job) {
  using D = F32Dot<S>;
  for_pieces<D>(job, [&](const Piece& piece) {
    const char* base =
        static_cast<const char*>(job.w.values) + (piece.first * job.k + piece.begin) * 4;
    if (is_whole<D>(piece)) return run_tiles<D>(job, piece, WeightTileRows{base, job.k * 4});
    // Padded with zeros.
    const std::int64_t columns = piece.end - piece.begin;
    const std::int64_t stride = round_up(columns, kPairColumns<D>);
    auto* padded = reinterpret_cast<float*>(decoded_weights(job));
    for (std::int64_t i = 0; i < piece.last - piece.first; ++i)
      for (std::int64_t k = 0; k < stride; ++k) {
        padded[i * stride + k] = 0;
        if (k < columns) __builtin_memcpy(padded + i * stride + k, base + (i * job.k + k) * 4, 4);
      }
    run_tiles<D>(job, piece, WeightTileRows{decoded_weights(job), stride * 4});
  });
}

}  // namespace
}  // namespace m3::cpu
