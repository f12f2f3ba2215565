// x Wᵀ, written once for every instruction set and number format. For isa_*.cc only.
//
// Each output is a dot product along K: a vector of lanes runs over the row of x and the row of W,
// and its lanes are added up at the end. So W is read as it lies in the file, row after row, at any
// address, and one row of x takes the same sums in the same order as many: decode and prefill agree
// bit for bit. A tile of kRowTile x 4 sums keeps the registers full.
//
// K is cut into blocks of column_block() columns; lanes are added up at the end of each block.
// Few rows (decode) are limited by reading W: four rows of W at a time are read to their ends; if
// one row of x is small beside the first-level cache (kReadsApart), from four places of the job
// that go on from row to row, which the processor follows better. Many rows (prefill) are limited
// by multiplications: all rows pass by a block of the job's weights, which stays in the
// second-level cache, a tile's x in the first. What comes from memory is asked for ahead (Zen 4,
// two threads, 4 and 16 rows, four rows of W ahead: 0.30 and 0.67 of the multiplication peak; 2
// KiB: 0.22, 0.56).
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_row_tiles.h"
#include "backend/cpu/loops_tile.h"
#include "backend/cpu/loops_weights.h"

namespace m3::cpu {
namespace {

// Columns [begin, end) of `count` of the job's outputs, `apart` from each other.
struct Piece {
  std::int64_t first, count, apart;
  std::int64_t begin, end;
};

// The tile of kRows rows from `row` on and of kOutputs outputs from the piece's n-th on.
template <class D, int kRows, int kOutputs>
void run_tile_at(const DotJob& job, const Piece& piece, const WeightTileRows& w, std::int64_t row,
                 std::int64_t n) {
  const Tile tile{job.x + row,
                  piece.begin / D::kStep,
                  round_up(piece.end - piece.begin, kPairColumns<D>) / D::kStep,
                  piece.begin == 0,
                  piece.end == job.k,
                  job.w.scale,
                  job.out + row * job.out_stride + piece.first + n * piece.apart,
                  job.out_stride,
                  piece.apart};
  const WeightTileRows here{w.base + n * w.stride, w.stride};
  if (row > 0) {
    run_tile<D, kRows, kOutputs, Ask::kNothing>(tile, here);
  } else if constexpr (kRows == 1 && D::kReadsApart) {
    run_tile<D, kRows, kOutputs, Ask::kFurther>(tile, here);
  } else {
    run_tile<D, kRows, kOutputs, Ask::kNextRows>(tile, here);
  }
}

// The same columns of the next rows are asked for as the outputs of these pass by, part by part.
template <class D>
void ask_for_next_rows(const DotJob& job, const Piece& piece, std::int64_t row, std::int64_t rows,
                       std::int64_t n) {
  const std::int64_t next = row + rows, end = next + rows < job.rows ? next + rows : job.rows;
  for (std::int64_t r = next; r < end; ++r)
    prefetch_part(static_cast<const char*>(job.x[r]) + piece.begin / D::kStep * D::kPackedStepBytes,
                  (piece.end - piece.begin) / D::kStep * D::kPackedStepBytes, n / 4,
                  (piece.count + 3) / 4);
}

// All tiles of a piece of one column block. `w` starts at the piece's first output and column.
template <class D>
void run_tiles(const DotJob& job, const Piece& piece, const WeightTileRows& w) {
  for_row_tiles<D::kRowTile>(job.rows, [&](auto rows, std::int64_t row) {
    constexpr int kRows = decltype(rows)::value;
    std::int64_t n = 0;
    for (; n + 4 <= piece.count; n += 4) {
      ask_for_next_rows<D>(job, piece, row, kRows, n);
      run_tile_at<D, kRows, 4>(job, piece, w, row, n);
    }
    for (; n < piece.count; ++n) run_tile_at<D, kRows, 1>(job, piece, w, row, n);
  });
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

// The piece's weights as they lie in memory, of numbers of so many bytes.
inline WeightTileRows rows_in_place(const DotJob& job, const Piece& piece, std::int64_t bytes) {
  return {static_cast<const char*>(job.w.values) + (piece.first * job.k + piece.begin) * bytes,
          piece.apart * job.k * bytes};
}

// Any format, by way of scratch; a ragged end is padded with zeros, as x is.
template <class D>
WeightTileRows decoded_rows(const DotJob& job, const Piece& piece) {
  const std::int64_t columns = piece.end - piece.begin;
  const std::int64_t stride = round_up(columns, kPairColumns<D>);
  auto* decoded = static_cast<std::uint16_t*>(job.scratch);
  for (std::int64_t n = 0; n < piece.count; ++n, decoded += stride) {
    decode_row<typename D::Simd>(job.w, piece.first + n * piece.apart, job.k, piece.begin,
                                 piece.end, decoded);
    for (std::int64_t k = columns; k < stride; ++k) decoded[k] = 0;
  }
  return {static_cast<const char*>(job.scratch), stride * 2};
}

// Float32 with a ragged end, padded with zeros.
template <class D>
WeightTileRows padded_rows(const DotJob& job, const Piece& piece) {
  const std::int64_t columns = piece.end - piece.begin;
  const std::int64_t stride = round_up(columns, kPairColumns<D>);
  const WeightTileRows rows = rows_in_place(job, piece, 4);
  auto* padded = static_cast<float*>(job.scratch);
  for (std::int64_t n = 0; n < piece.count; ++n, padded += stride) {
    __builtin_memcpy(padded, rows.base + n * rows.stride, static_cast<std::size_t>(columns) * 4);
    for (std::int64_t k = columns; k < stride; ++k) padded[k] = 0;
  }
  return {static_cast<const char*>(job.scratch), stride * 4};
}

// Calls f(piece) for all of a job: few outputs to the ends of their rows, or all outputs block by
// block.
template <class D, class F>
void for_pieces(const DotJob& job, F f) {
  const auto for_columns = [&](std::int64_t first, std::int64_t count, std::int64_t apart) {
    for (std::int64_t begin = 0; begin < job.k; begin = block_end<D>(job, begin))
      f(Piece{first, count, apart, begin, block_end<D>(job, begin)});
  };
  std::int64_t n = 0;
  if (D::kReadsApart && job.rows == 1) {
    const std::int64_t apart = job.outputs / 4;
    for (; n < apart; ++n) for_columns(n, 4, apart);
    n *= 4;
  }
  const std::int64_t group = job.rows <= D::kRowTile ? 4 : kOutputBlock;
  for (; n < job.outputs; n += group)
    for_columns(n, job.outputs - n < group ? job.outputs - n : group, 1);
}

template <class D>
void dot(const DotJob& job) {
  for_pieces<D>(job, [&](const Piece& piece) {
    const bool in_place = job.w.format == WeightFormat::kBF16 && is_whole<D>(piece);
    run_tiles<D>(job, piece, in_place ? rows_in_place(job, piece, 2) : decoded_rows<D>(job, piece));
  });
}

template <class S>
void dot_f32(const DotJob& job) {
  using D = F32Dot<S>;
  for_pieces<D>(job, [&](const Piece& piece) {
    run_tiles<D>(job, piece,
                 is_whole<D>(piece) ? rows_in_place(job, piece, 4) : padded_rows<D>(job, piece));
  });
}

}  // namespace
}  // namespace m3::cpu
