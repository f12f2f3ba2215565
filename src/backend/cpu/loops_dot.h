// x Wᵀ for weights as they are stored, in every number format. For isa_*.cc only. Those that matter
// for speed are in panels (loops_panels.h); this is what float32 and float16 are multiplied with,
// and what says how the others are.
//
// Each output is a dot product along K: a vector of lanes runs over the row of x and the row of W,
// and its lanes are added up at the end. So W is read as it lies in the file, row after row, at any
// address, and one row of x takes the same sums in the same order as many: decode and prefill agree
// bit for bit. A tile of kRowTile x 4 sums keeps the registers full.
//
// K is cut into blocks of column_block() columns; lanes are added up at the end of each block. All
// rows pass by a block of the job's weights, which stays in the second-level cache, a tile's x in
// the first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_row_tiles.h"
#include "backend/cpu/loops_tile.h"
#include "backend/cpu/loops_weights.h"

namespace m3::cpu {
namespace {

// Columns [begin, end) of the job's outputs [first, last).
struct Piece {
  std::int64_t first, last;
  std::int64_t begin, end;
};

// The tile of kRows rows from `row` on and of kOutputs outputs from `n` on.
template <class D, int kRows, int kOutputs>
void run_tile_at(const DotJob& job, const Piece& piece, const WeightTileRows& w, std::int64_t row,
                 std::int64_t n) {
  const Tile tile{job.x + row,
                  piece.begin / D::kStep,
                  round_up(piece.end - piece.begin, kPairColumns<D>) / D::kStep,
                  piece.begin == 0,
                  piece.end == job.k,
                  job.w.scale,
                  job.out + row * job.out_stride + n,
                  job.out_stride};
  const WeightTileRows here{w.base + (n - piece.first) * w.stride, w.stride};
  run_tile<D, kRows, kOutputs>(tile, here);
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
  for_row_tiles<D::kRowTile>(job.rows, [&](auto rows, std::int64_t row) {
    constexpr int kRows = decltype(rows)::value;
    std::int64_t n = piece.first;
    for (; n + 4 <= piece.last; n += 4) {
      ask_for_next_rows<D>(job, piece, row, kRows, n);
      run_tile_at<D, kRows, 4>(job, piece, w, row, n);
    }
    for (; n < piece.last; ++n) run_tile_at<D, kRows, 1>(job, piece, w, row, n);
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
          job.k * bytes};
}

// Any format, by way of scratch; a ragged end is padded with zeros, as x is.
template <class D>
WeightTileRows decoded_rows(const DotJob& job, const Piece& piece) {
  const std::int64_t columns = piece.end - piece.begin;
  const std::int64_t stride = round_up(columns, kPairColumns<D>);
  auto* decoded = static_cast<std::uint16_t*>(job.scratch);
  for (std::int64_t n = piece.first; n < piece.last; ++n, decoded += stride) {
    decode_row<typename D::Simd>(job.w, n, job.k, piece.begin, piece.end, decoded);
    for (std::int64_t k = columns; k < stride; ++k) decoded[k] = 0;
  }
  return {static_cast<const char*>(job.scratch), stride * 2};
}

// Float32 with a ragged end, padded with zeros.
template <class D>
WeightTileRows padded_rows(const DotJob& job, const Piece& piece) {
  const std::int64_t columns = piece.end - piece.begin;
  const std::int64_t stride = round_up(columns, kPairColumns<D>);
  const char* row = rows_in_place(job, piece, 4).base;
  auto* padded = static_cast<float*>(job.scratch);
  for (std::int64_t n = piece.first; n < piece.last; ++n, row += job.k * 4, padded += stride) {
    __builtin_memcpy(padded, row, static_cast<std::size_t>(columns) * 4);
    for (std::int64_t k = columns; k < stride; ++k) padded[k] = 0;
  }
  return {static_cast<const char*>(job.scratch), stride * 4};
}

// Calls f(piece) for all of a job, block by block.
template <class D, class F>
void for_pieces(const DotJob& job, F f) {
  for (std::int64_t n = 0; n < job.outputs; n += kOutputBlock)
    for (std::int64_t begin = 0; begin < job.k; begin = block_end<D>(job, begin))
      f(Piece{n, n + kOutputBlock < job.outputs ? n + kOutputBlock : job.outputs, begin,
              block_end<D>(job, begin)});
}

template <class D>
void dot(const DotJob& job) {
  const bool in_place = job.w.format == WeightFormat::kBF16;
  for_pieces<D>(job, [&](const Piece& piece) {
    run_tiles<D>(job, piece,
                 in_place && is_whole<D>(piece) ? rows_in_place(job, piece, 2)
                                                : decoded_rows<D>(job, piece));
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
