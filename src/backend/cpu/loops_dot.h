// x Wᵀ, written once for every instruction set and number format. For isa_*.cc only.
//
// Each output is a dot product along K: a vector of lanes runs over the row of x and the row of W,
// and its lanes are added up at the end. So W is read as it lies in the file, row after row, at any
// address, and one row of x takes the same sums in the same order as many: decode and prefill agree
// bit for bit. A tile of kRowTile x 4 sums keeps the registers full.
//
// K is cut into blocks of column_block() columns; lanes are added up at the end of each block.
// Few rows (decode) are limited by reading W: some rows of W at a time are read to their ends. Many
// rows (prefill) are limited by multiplications: all rows pass by a block of the job's weights,
// which stays in the second-level cache, a tile's x in the first. What comes from memory is asked
// for a tile of W ahead (Zen 4, two threads, 16 rows: 0.67 of the multiplication peak, 0.56 with
// 2 KiB).
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
  if (row == 0) {
    run_tile<D, kRows, kOutputs, true>(tile, here);
  } else {
    run_tile<D, kRows, kOutputs, false>(tile, here);
  }
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

// How kRows rows of x pass by W where it is read to the ends of its rows.
template <class D, int kRows>
struct FewRows {
  // Rows of W at a time, as many as registers hold: each vector of x, which W drives out of the
  // first-level cache, serves them all (Zen 4, one core, 2 and 3 rows: 26.2 and 23.6 GB/s with 8,
  // 22 and 21 with 4).
  static constexpr int kSums = 4 * D::kRowTile / kRows;
  static constexpr int kOutputs = kRows > 1 && kSums >= 8 ? 8 : 4;
  // One row alone outruns the processor's own prefetching where rows lie side by side: each of them
  // ends soon. It reads as many streams, each of which goes on with the next row (Zen 4, one core,
  // which reads 31 GB/s: 28.5, asking for what is 1 KiB further on; side by side 23.5). Where x
  // takes most of the first-level cache, that is slower.
  static constexpr bool kApart = kRows == 1 && D::kReadsApart;
  static constexpr std::int64_t kApartAhead = 1024;
};

// Outputs n, n + apart, ... (kOutputs of them) for all of a job's rows, W in bfloat16 as it lies in
// memory.
template <class D, int kRows, int kOutputs>
[[gnu::noinline]] void whole_rows(const DotJob& job, std::int64_t n, std::int64_t apart) {
  const std::int64_t stride = apart * job.k * 2;
  const std::int64_t ahead =
      FewRows<D, kRows>::kApart ? FewRows<D, kRows>::kApartAhead : kOutputs * stride;
  const char* base = static_cast<const char*>(job.w.values) + n * job.k * 2;
  const char* x[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) x[r] = static_cast<const char*>(job.x[r]);
  float totals[kRows][kOutputs] = {};
  std::int64_t step = 0;
  for (std::int64_t begin = 0; begin < job.k; begin = block_end<D>(job, begin)) {
    typename D::F sums[kRows][kOutputs];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int j = 0; j < kOutputs; ++j) sums[r][j] = D::Simd::zero();
    for (const std::int64_t end = block_end<D>(job, begin) / D::kStep; step < end;
         ++step, base += D::kStepBytes) {
#pragma GCC unroll 8
      for (int j = 0; j < kOutputs; ++j) __builtin_prefetch(base + j * stride + ahead, 0, 2);
      multiply_step<D>(x, step, base, stride, sums);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      float block[kOutputs];
      add_lanes<typename D::Simd, kOutputs>(sums[r], block);
      for (int j = 0; j < kOutputs; ++j)
        totals[r][j] = begin == 0 ? block[j] : totals[r][j] + block[j];
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int j = 0; j < kOutputs; ++j)
      job.out[r * job.out_stride + n + j * apart] = totals[r][j] * job.w.scale;
}

template <class D, int kRows>
void few_rows(const DotJob& job) {
  using Few = FewRows<D, kRows>;
  const std::int64_t groups = job.outputs / Few::kOutputs;
  for (std::int64_t g = 0; g < groups; ++g)
    whole_rows<D, kRows, Few::kOutputs>(job, Few::kApart ? g : g * Few::kOutputs,
                                        Few::kApart ? groups : 1);
  for (std::int64_t n = groups * Few::kOutputs; n < job.outputs; ++n)
    whole_rows<D, kRows, 1>(job, n, 1);
}

template <class D>
void dot(const DotJob& job) {
  const bool in_place = job.w.format == WeightFormat::kBF16;
  if (in_place && job.rows <= D::kRowTile && job.k % kPairColumns<D> == 0)
    return with_constant<D::kRowTile>(job.rows,
                                      [&](auto rows) { few_rows<D, decltype(rows)::value>(job); });
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
