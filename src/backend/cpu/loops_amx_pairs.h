// Products of rows with a matrix in pairs (PairsJob) by tiles of AMX: what attention and the index
// are made of. For isa_*.cc only.
//
// Both sides lie as the instruction wants them: 16 rows of x by 32 columns of the sum are the first
// factor, 16 pairs by 16 columns of y the second. Sixteen query heads that share a key head fill a
// tile, and so does one token's decoding. Two tiles of rows meet two of columns, one load a
// multiplication.
//
// An element's sum runs over the pairs in steps of 16 from pair 0, one instruction a step, the last
// one shorter; between passes it waits in `out`, which rounds nothing. So its bits do not depend on
// the number of rows or columns.
#pragma once

#include <cstdint>

#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_pairs.h"

namespace m3::cpu {
namespace {

// Tiles 0-3 are sums, 4 and 5 rows of x, 6 and 7 pairs of y.
template <class Tiles>
class TilePairs {
 public:
  explicit TilePairs(const PairsJob& job) : job_(job), ahead_(job, tile_blocks(job)) {}

  void run() {
    const std::int64_t whole = job_.pairs / kTileRows, rest = job_.pairs % kTileRows;
    const std::int64_t full_rows = job_.rows / kTileRows * kTileRows, rows = job_.rows - full_rows;
    if (whole > 0) {
      pass({0, full_rows, 0, whole, kTileRows});
      pass({full_rows, rows, 0, whole, kTileRows});
    }
    if (rest > 0) {
      pass({0, full_rows, whole, 1, rest});
      pass({full_rows, rows, whole, 1, rest});
    }
    tiles_.release();
  }

 private:
  // Rows and steps that one configuration serves: whole tiles of rows, or one of fewer.
  struct Pass {
    std::int64_t first, rows;
    std::int64_t step, steps;
    std::int64_t pairs;  // of a step
  };
  static constexpr std::int64_t kBlock = 2 * kTileRows;  // rows and columns of four tiles

  static std::int64_t tile_blocks(const PairsJob& job) {
    return divide_up(job.rows, kBlock) * divide_up(job.columns, kBlock);
  }

  void configure(std::int64_t rows, std::int64_t pairs) {
    TileConfig config;
    for (int tile = 0; tile < kTiles; ++tile) {
      const bool is_x = tile == 4 || tile == 5, is_y = tile >= 6;
      config.rows[tile] = static_cast<std::uint8_t>(is_y ? pairs : rows);
      config.row_bytes[tile] = static_cast<std::uint16_t>(is_x ? 4 * pairs : kTileRowBytes);
    }
    tiles_.configure(config);
  }

  void pass(const Pass& p) {
    if (p.rows == 0) return;
    configure(p.rows < kTileRows ? p.rows : kTileRows, p.pairs);
    for (std::int64_t row = p.first; row < p.first + p.rows; row += kBlock) {
      const bool two_rows = p.first + p.rows - row > kTileRows;
      for (std::int64_t column = 0; column < job_.columns; column += kBlock) {
        const bool two_columns = job_.columns - column > kTileRows;
        if (two_rows)
          two_columns ? block<2, 2>(p, row, column) : block<2, 1>(p, row, column);
        else
          two_columns ? block<1, 2>(p, row, column) : block<1, 1>(p, row, column);
      }
    }
  }

  // kA tiles of rows by kB of columns: tile 2a + b is the sums of a and b.
  template <int kA, int kB>
  void block(const Pass& p, std::int64_t row, std::int64_t column) {
    float* out = job_.out + row * job_.out_stride + column;
    begin_sum<kA, kB, 0>(p, out), begin_sum<kA, kB, 1>(p, out);
    begin_sum<kA, kB, 2>(p, out), begin_sum<kA, kB, 3>(p, out);
    const std::int64_t first = p.step * kTileRows;
    const std::uint16_t* x = job_.x + row * job_.x_stride + 2 * first;
    const std::uint16_t* y = job_.y + first * job_.y_stride + 2 * column;
    const std::int64_t x_stride = job_.x_stride * 2, y_stride = job_.y_stride * 2;
    for (std::int64_t step = 0; step < p.steps; ++step) {
      ask_ahead();
      tiles_.template load<4>(x, x_stride);
      tiles_.template load<6>(y, y_stride);
      tiles_.template multiply<0, 4, 6>();
      if constexpr (kB == 2) {
        tiles_.template load<7>(y + 2 * kTileRows, y_stride);
        tiles_.template multiply<1, 4, 7>();
      }
      if constexpr (kA == 2) {
        tiles_.template load<5>(x + kTileRows * job_.x_stride, x_stride);
        tiles_.template multiply<2, 5, 6>();
        if constexpr (kB == 2) tiles_.template multiply<3, 5, 7>();
      }
      x += 2 * kTileRows;
      y += kTileRows * job_.y_stride;
    }
    end_sum<kA, kB, 0>(out), end_sum<kA, kB, 1>(out);
    end_sum<kA, kB, 2>(out), end_sum<kA, kB, 3>(out);
  }

  template <int kA, int kB, int kTile>
  static constexpr bool kUsed = kTile / 2 < kA&& kTile % 2 < kB;
  template <int kTile>
  float* place(float* out) const {
    return out + (kTile / 2 * job_.out_stride + kTile % 2) * kTileRows;
  }
  template <int kA, int kB, int kTile>
  void begin_sum(const Pass& p, float* out) {
    if constexpr (kUsed<kA, kB, kTile>) {
      if (job_.adds || p.step > 0) {
        tiles_.template load<kTile>(place<kTile>(out), job_.out_stride * 4);
      } else {
        tiles_.template zero<kTile>();
      }
    }
  }
  template <int kA, int kB, int kTile>
  void end_sum(float* out) {
    if constexpr (kUsed<kA, kB, kTile>)
      tiles_.template store<kTile>(place<kTile>(out), job_.out_stride * 4);
  }

  // What PairsJob wants asked for, as much as 16 pairs of a tile have to.
  void ask_ahead() {
    const std::int64_t left = ahead_.end - ahead_.next, share = kTileRows * ahead_.step;
    const char* stop = ahead_.next + (left < share ? left : share);
    for (; ahead_.next < stop; ahead_.next += 64) __builtin_prefetch(ahead_.next, 0, 2);
  }

  const PairsJob& job_;
  LinesAhead ahead_;
  Tiles tiles_;
};

template <class Tiles>
void multiply_pairs_in_tiles(const PairsJob& job) {
  TilePairs<Tiles>(job).run();
}

}  // namespace
}  // namespace m3::cpu
