// x Wᵀ by tiles of AMX, for every number format. For isa_*.cc only.
//
// One instruction adds 16 outputs x 32 columns of W times 32 columns x 16 rows of x to 16 x 16
// sums. The first factor is W as it lies in the file: its rows are a tile's rows, at any stride. So
// W is not packed and x, of which there is less, is: a *panel* of up to 16 rows holds, for each two
// columns, the pairs of all its rows side by side. Sums come out as [outputs, rows], and are
// transposed at the end.
//
// An output's sum runs over K in steps of 32 columns from column 0, one instruction a step, the end
// of K padded with zeros; between two blocks of columns it waits in memory, which rounds nothing.
// So its bits depend neither on its neighbours nor on how the work is cut.
//
// Many rows are limited by multiplications, and these by the loading of their tiles (16 cycles a
// multiplication, 8 or more a load): two tiles of outputs meet two panels, one load a
// multiplication. K is cut into kTileColumns columns: W's block is copied or decoded once (20 KiB,
// in a first-level cache of 48 beside the two panels that pass), and used for all rows of the job;
// the rows' block (320 KiB) and the sums (256 KiB) stay in the second-level cache while all outputs
// pass. A copy serves in bfloat16 too: rows of W whose distance is a multiple of 4 KiB would fight
// for the same lines of the first-level cache.
//
// One panel (decode) is limited by reading W: bfloat16 is multiplied in place along the whole of K,
// prefetched to the second-level cache. A panel of n rows takes tiles of n columns, so that x is
// not read with 16 - n rows of nothing.
//
// The cuts are reasoned from the cache sizes of Sapphire Rapids; none of this has been measured.
#pragma once

#include <cstdint>

#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_weights.h"
#include "backend/cpu/loops_x_panels.h"

namespace m3::cpu {
namespace {

constexpr std::int64_t kStripOutputs = 32;  // two tiles of them
constexpr std::int64_t kTileColumns = 320;
constexpr std::int64_t kSumTilesBytes = kTileRowBlock * kTileOutputBlock * 4;
static_assert(kSumTilesBytes + kStripOutputs * kTileColumns * 2 <= kDotScratchBytes);

// Tiles 0-3 are sums [outputs, rows], 4 and 5 weights, 6 and 7 panels.
inline TileConfig tiles_of(std::int64_t panel_rows) {
  TileConfig config;
  for (int tile = 0; tile < kTiles; ++tile) {
    const bool is_weights = tile == 4 || tile == 5;
    config.rows[tile] = kTileRows;
    config.row_bytes[tile] =
        static_cast<std::uint16_t>(is_weights ? kTileRowBytes : 4 * panel_rows);
  }
  return config;
}

// Rows of W in bfloat16 that tiles are loaded from.
struct TileRowsOfW {
  const char* base;
  std::int64_t stride;  // bytes
  bool streams;         // from memory, used once
};

// The outputs [first, first + outputs) and columns [begin, end) that one pass works on.
struct Strip {
  std::int64_t first, outputs;  // <= kStripOutputs
  std::int64_t begin, end;
};

inline char* sums_of(const DotJob& job, std::int64_t panel, std::int64_t output_tile) {
  constexpr std::int64_t kOutputTiles = kTileOutputBlock / kTileRows;
  return static_cast<char*>(job.scratch) + (panel * kOutputTiles + output_tile) * kTileBytes;
}

inline void prefetch_tile_rows(const char* base, std::int64_t stride, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; ++r) __builtin_prefetch(base + r * stride, 0, 2);
}

// How far ahead of its use a row of W is asked for, bytes.
constexpr std::int64_t kTilePrefetch = 1024;

// Sums of kA tiles of outputs and kB panels, each panel of `rows` rows.
template <class Tiles, int kA, int kB>
struct TileBlock {
  Tiles& tiles;
  const DotJob& job;
  const Strip& strip;
  std::int64_t panel;
  std::int64_t rows;

  void run(const TileRowsOfW& w) const {
    begin_sum<0>(), begin_sum<1>(), begin_sum<2>(), begin_sum<3>();
    const std::int64_t steps = (strip.end - strip.begin + kStepColumns - 1) / kStepColumns;
    const std::int64_t x_stride = rows * 4, x_step = rows * kTileRowBytes;
    const char* x[kB];
    for (int b = 0; b < kB; ++b)
      x[b] = static_cast<const char*>(job.x[panel + b]) + strip.begin / kStepColumns * x_step;
    const char* at = w.base;
    // Beyond the end of a row comes the next row of the same tiles; what is wanted is the start of
    // the next tiles.
    const std::int64_t turn = steps - kTilePrefetch / kTileRowBytes;
    for (std::int64_t step = 0; step < steps; ++step, at += kTileRowBytes) {
      if (w.streams) {
        const std::int64_t ahead = step < turn ? 0 : (kA * kTileRows - 1) * w.stride;
        prefetch_tile_rows(at + kTilePrefetch + ahead, w.stride, kA * kTileRows);
      }
      tiles.template load<6>(x[0] + step * x_step, x_stride);
      tiles.template load<4>(at, w.stride);
      tiles.template multiply<0, 4, 6>();
      if constexpr (kB == 2) {
        tiles.template load<7>(x[1] + step * x_step, x_stride);
        tiles.template multiply<1, 4, 7>();
      }
      if constexpr (kA == 2) {
        tiles.template load<5>(at + kTileRows * w.stride, w.stride);
        tiles.template multiply<2, 5, 6>();
        if constexpr (kB == 2) tiles.template multiply<3, 5, 7>();
      }
    }
    end_sum<0>(), end_sum<1>(), end_sum<2>(), end_sum<3>();
  }

 private:
  // Tile 2a + b holds the sums of output tile a and panel b.
  template <int kTile>
  static constexpr bool kUsed = kTile / 2 < kA&& kTile % 2 < kB;

  template <int kTile>
  char* kept() const {
    return sums_of(job, panel + kTile % 2, strip.first / kTileRows + kTile / 2);
  }
  template <int kTile>
  void begin_sum() const {
    if constexpr (kUsed<kTile>) {
      if (strip.begin == 0) {
        tiles.template zero<kTile>();
      } else {
        tiles.template load<kTile>(kept<kTile>(), kTileRowBytes);
      }
    }
  }
  template <int kTile>
  void end_sum() const {
    if constexpr (kUsed<kTile>) tiles.template store<kTile>(kept<kTile>(), kTileRowBytes);
  }
};

template <class S, class Tiles>
class TileDot {
 public:
  explicit TileDot(const DotJob& job) : job_(job) {}

  void run() {
    const std::int64_t columns = in_place_columns();
    for (std::int64_t begin = 0, end; begin < job_.k; begin = end) {
      const bool in_place = begin < columns;
      end = in_place ? columns : min(begin + kTileColumns, job_.k);
      for (std::int64_t n = 0; n < job_.outputs; n += kStripOutputs) {
        const Strip strip{n, min(kStripOutputs, job_.outputs - n), begin, end};
        if (in_place && strip.outputs % kTileRows == 0) {
          const char* values = static_cast<const char*>(job_.w.values) + (n * job_.k + begin) * 2;
          multiply(strip, {values, job_.k * 2, true});
        } else {
          multiply_decoded(strip);
        }
        if (end == job_.k) write_out(strip);
      }
    }
    tiles_.release();
  }

 private:
  static std::int64_t min(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

  // From column 0 on; 0 where W is to be copied or decoded.
  std::int64_t in_place_columns() const {
    const bool few = job_.rows <= kXPanelRows;
    return few && job_.w.format == WeightFormat::kBF16 ? job_.k / kStepColumns * kStepColumns : 0;
  }

  void multiply_decoded(const Strip& strip) {
    for (Strip part = strip; part.begin < strip.end; part.begin = part.end) {
      part.end = min(part.begin + kTileColumns, strip.end);
      prefetch_after(part);
      decode(part);
      multiply(part, {weights(), kTileColumns * 2, false});
    }
  }

  char* weights() const { return static_cast<char*>(job_.scratch) + kSumTilesBytes; }

  // Asks for the weights that will be decoded next: of the next columns, or of the next outputs.
  // The processor's own prefetching has little to go by when each row is left after some lines.
  void prefetch_after(const Strip& strip) const {
    const std::int64_t row_bytes = value_row_bytes(job_.w.format, job_.k);
    const std::int64_t bytes = value_row_bytes(job_.w.format, kTileColumns);
    const char* row = static_cast<const char*>(job_.w.values) + strip.first * row_bytes;
    row +=
        strip.end < job_.k ? value_row_bytes(job_.w.format, strip.end) : kStripOutputs * row_bytes;
    for (std::int64_t i = 0; i < strip.outputs; ++i, row += row_bytes)
      for (std::int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
  }

  // The strip's weights in whole tiles, padded with zeros.
  void decode(const Strip& strip) const {
    const std::int64_t columns = strip.end - strip.begin;
    const std::int64_t padding = round_up(columns, kStepColumns) - columns;
    auto* row = reinterpret_cast<std::uint16_t*>(weights());
    for (std::int64_t i = 0; i < round_up(strip.outputs, kTileRows); ++i, row += kTileColumns) {
      if (i < strip.outputs) {
        decode_row<S>(job_.w, strip.first + i, job_.k, strip.begin, strip.end, row);
        __builtin_memset(row + columns, 0, static_cast<std::uint64_t>(padding) * 2);
      } else {
        __builtin_memset(row, 0, static_cast<std::uint64_t>(columns + padding) * 2);
      }
    }
  }

  void multiply(const Strip& strip, const TileRowsOfW& w) {
    if (strip.outputs > kTileRows) {
      multiply_all_rows<2>(strip, w);
    } else {
      multiply_all_rows<1>(strip, w);
    }
  }

  template <int kA>
  void multiply_all_rows(const Strip& strip, const TileRowsOfW& w) {
    const std::int64_t whole = job_.rows / kXPanelRows, left = job_.rows % kXPanelRows;
    std::int64_t panel = 0;
    if (whole > 0) configure(kXPanelRows);
    for (; panel + 2 <= whole; panel += 2)
      TileBlock<Tiles, kA, 2>{tiles_, job_, strip, panel, kXPanelRows}.run(w);
    if (panel < whole) TileBlock<Tiles, kA, 1>{tiles_, job_, strip, panel, kXPanelRows}.run(w);
    if (left == 0) return;
    configure(left);
    TileBlock<Tiles, kA, 1>{tiles_, job_, strip, whole, left}.run(w);
  }

  void configure(std::int64_t rows) {
    if (rows == configured_) return;
    tiles_.configure(tiles_of(rows));
    configured_ = rows;
  }

  void write_out(const Strip& strip) const {
    for (std::int64_t row = 0; row < job_.rows; row += kXPanelRows)
      for (std::int64_t n = 0; n < strip.outputs; n += kTileRows) {
        const std::int64_t output = strip.first + n;
        Transpose<S>::run(sums_of(job_, row / kXPanelRows, output / kTileRows),
                          min(kTileRows, strip.outputs - n), min(kXPanelRows, job_.rows - row),
                          job_.out + row * job_.out_stride + output, job_.out_stride);
      }
    for (std::int64_t row = 0; row < job_.rows; ++row)
      for (std::int64_t n = strip.first; n < strip.first + strip.outputs; ++n)
        job_.out[row * job_.out_stride + n] *= job_.w.scale;
  }

  const DotJob& job_;
  Tiles tiles_;
  std::int64_t configured_ = 0;  // rows of a panel
};

template <class S, class Tiles>
void dot_tiles(const DotJob& job) {
  TileDot<S, Tiles>(job).run();
}

}  // namespace
}  // namespace m3::cpu
