// x Wᵀ by tiles of AMX, for every number format. For isa_*.cc only.
//
// One instruction adds 16 rows x 32 columns of x times 32 columns x 16 outputs of W to 16 x 16
// sums. x comes in panels (loops_x_panels.h), W in tiles (loops_amx_weights.h).
//
// An output's sum runs over K in steps of 32 columns from column 0 (16 in NVFP4), one instruction a
// step; between two chunks of columns it waits in memory, which rounds nothing. So its bits depend
// neither on its neighbours nor on how the work is cut. With 4-bit weights a step's sum is exact
// (loops_panel_e2m1.h), so that a few rows may be multiplied by integers instead.
//
// One panel (decode) is limited by reading W. The sums of a group stay in tiles along all of K, and
// W passes by in the order of memory, each line asked for ahead. A tile is decoded before the last
// one is multiplied, since it cannot be loaded from what still waits to be written; and few tiles
// are under way, since loads wait for stores whose addresses end in the same 12 bits, too (Emerald
// Rapids, MXFP8, the tiles' loads imitated: 16 GB/s a core by whole spans, 28 by tiles).
//
// Many rows are limited by multiplications, and these by the loading of their tiles (16 cycles a
// multiplication, 8 or more a load): two panels of x meet two tiles of outputs, one load a
// multiplication. K is cut into chunks. W's chunk of two panels is made once (16 KiB) and stays in
// a first-level cache of 48 beside the rows that pass; the rows' chunk (256 KiB) and the sums (512
// KiB) stay in the second-level cache while all outputs pass. x is read from the third-level cache
// once for 256 outputs: at the peak of the tiles, with 512 rows, that is 12 GB/s a core.
//
// The cuts are reasoned from the cache sizes of Sapphire Rapids; none of this has been measured.
#pragma once

#include <cstdint>
#include <type_traits>

#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_amx_weights.h"
#include "backend/cpu/loops_panels.h"
#include "backend/cpu/loops_x_panels.h"

namespace m3::cpu {
namespace {

constexpr std::int64_t kTileChunkSpans = 2;
constexpr std::int64_t kSpanTilesBytes = kSpanColumns * kPanelOutputs * 2;
constexpr std::int64_t kRingTiles = 8;
constexpr std::int64_t kTilePanelsMax = kTileOutputBlock / kPanelOutputs;
constexpr std::int64_t kSumTilesBytes = kTileRowBlock * kTileOutputBlock * 4;
static_assert(kSumTilesBytes + 2 * kTileChunkSpans * kSpanTilesBytes <= kDotScratchBytes);

// Tiles 0-3 are sums [rows, outputs], 4 and 5 panels of x, 6 and 7 weights.
inline TileConfig tiles_of(std::int64_t rows, std::int64_t step_columns) {
  TileConfig config;
  for (int tile = 0; tile < kTiles; ++tile) {
    const bool is_x = tile == 4 || tile == 5, is_w = tile >= 6;
    config.rows[tile] = static_cast<std::uint8_t>(is_w ? step_columns / 2 : rows);
    config.row_bytes[tile] = static_cast<std::uint16_t>(is_x ? step_columns * 2 : kTileRowBytes);
  }
  return config;
}

// What a job is, whatever its weights.
struct TileJob {
  const void* const* x;  // panels
  std::int64_t rows, outputs, k;
  float scale;
  float* out;
  std::int64_t out_stride;
  char* scratch;
};

template <class S, class Tiles, class W>
class TileProduct {
 public:
  TileProduct(const TileJob& job, const W& w)
      : job_(job), w_(w), panels_(panels_of(job.outputs)), spans_(spans_of(job.k)) {}

  void run() {
    if (job_.rows <= kTileRows) {
      configure(job_.rows);
      for (std::int64_t first = 0; first < panels_; first += kGroupPanels) run_group(first);
    } else {
      run_chunks();
    }
    tiles_.release();
  }

 private:
  using Span = typename W::Span;
  static constexpr std::int64_t kGroupPanels = kGroupOutputs / kPanelOutputs;
  static constexpr std::int64_t kSteps = kSpanColumns / W::kStepColumns;

  static std::int64_t min(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

  void configure(std::int64_t rows) {
    if (rows == configured_) return;
    tiles_.configure(tiles_of(rows, W::kStepColumns));
    configured_ = rows;
  }

  // The tile of a step of span s in a panel of `rows` rows.
  const char* x_tile(std::int64_t panel, std::int64_t rows, std::int64_t s,
                     std::int64_t step) const {
    const std::int64_t column = s * kSpanColumns + step * W::kStepColumns;
    return static_cast<const char*>(job_.x[panel]) + column / kXStepColumns * rows * kTileRowBytes +
           column % kXStepColumns * 2;
  }

  // -------------------------------------------------------------------------------- one panel

  // Up to four panels of outputs from `first` on, with all of x.
  void run_group(std::int64_t first) {
    const std::int64_t panels = min(kGroupPanels, panels_ - first);
    tiles_.template zero<0>(), tiles_.template zero<1>();
    tiles_.template zero<2>(), tiles_.template zero<3>();
    Span here = w_.span(first, 0);
    make_ready(here, 0);
    for (std::int64_t s = 0; s < spans_; ++s)
      for (std::int64_t n = 0; n < panels; ++n) {
        const bool ends = s + 1 == spans_ && n + 1 == panels;
        const Span next = ends ? here : w_.after(here);
        add_span(n, s, here, next);
        here = next;
      }
    store_group();
    for (std::int64_t n = 0; n < panels; ++n)
      write_tile(job_.scratch + n * kTileBytes, 0, job_.rows, first + n);
  }

  // Makes the next tile, in the next place of a ring.
  void make_ready(const Span& span, std::int64_t step) {
    ring_ = (ring_ + 1) % kRingTiles;
    ready_ = w_.template tile<true>(span, step, job_.scratch + ring_ * kTileBytes);
  }

  // Adds span s, whose first tile is ready, to sums `sums`, and makes the first tile of the next
  // one.
  void add_span(std::int64_t sums, std::int64_t s, const Span& here, const Span& next) {
    switch (sums) {
      case 0:
        return add_span<0>(s, here, next);
      case 1:
        return add_span<1>(s, here, next);
      case 2:
        return add_span<2>(s, here, next);
      default:
        return add_span<3>(s, here, next);
    }
  }
  template <int kSums>
  void add_span(std::int64_t s, const Span& here, const Span& next) {
    for (std::int64_t step = 0; step < kSteps; step += 2) {
      add_tile<kSums, 0>(s, step, here, step + 1);
      add_tile<kSums, 1>(s, step + 1, step + 2 < kSteps ? here : next, (step + 2) % kSteps);
    }
  }
  template <int kSums, int kTurn>
  void add_tile(std::int64_t s, std::int64_t step, const Span& next, std::int64_t next_step) {
    const char* w = ready_;
    make_ready(next, next_step);
    tiles_.template load<4 + kTurn>(x_tile(0, job_.rows, s, step), kTileRowBytes);
    tiles_.template load<6 + kTurn>(w, W::kRowStride);
    tiles_.template multiply<kSums, 4 + kTurn, 6 + kTurn>();
  }

  void store_group() {
    tiles_.template store<0>(job_.scratch, kTileRowBytes);
    tiles_.template store<1>(job_.scratch + kTileBytes, kTileRowBytes);
    tiles_.template store<2>(job_.scratch + 2 * kTileBytes, kTileRowBytes);
    tiles_.template store<3>(job_.scratch + 3 * kTileBytes, kTileRowBytes);
  }

  // -------------------------------------------------------------------------------- many rows

  // Some spans, of which W's tiles of two panels are ready.
  struct Chunk {
    std::int64_t first, spans;
    std::int64_t panel;
    const char* w[2][kTileChunkSpans];
  };

  void run_chunks() {
    for (std::int64_t s = 0; s < spans_; s += kTileChunkSpans)
      for (std::int64_t panel = 0; panel < panels_; panel += 2) {
        Chunk chunk{s, min(kTileChunkSpans, spans_ - s), panel, {}};
        const std::int64_t panels = min(2, panels_ - panel);
        char* room = job_.scratch + kSumTilesBytes;
        for (std::int64_t b = 0; b < panels; ++b)
          for (std::int64_t i = 0; i < chunk.spans; ++i, room += kSpanTilesBytes)
            chunk.w[b][i] = span_tiles(panel + b, s + i, room);
        panels == 2 ? run_rows<2>(chunk) : run_rows<1>(chunk);
      }
    for (std::int64_t row = 0; row < job_.rows; row += kTileRows)
      for (std::int64_t panel = 0; panel < panels_; ++panel)
        write_tile(sums_of(row / kTileRows, panel), row, min(kTileRows, job_.rows - row), panel);
  }

  const char* span_tiles(std::int64_t panel, std::int64_t s, char* room) const {
    const Span span = w_.span(panel, s);
    if constexpr (W::kInPlace) {
      return reinterpret_cast<const char*>(span);
    } else {
      for (std::int64_t step = 0; step < kSteps; ++step)
        w_.template tile<false>(span, step, room + W::tile_at(step));
      return room;
    }
  }

  char* sums_of(std::int64_t x_panel, std::int64_t panel) const {
    return job_.scratch + (x_panel * kTilePanelsMax + panel) * kTileBytes;
  }

  template <int kB>
  void run_rows(const Chunk& chunk) {
    const std::int64_t whole = job_.rows / kTileRows, left = job_.rows % kTileRows;
    std::int64_t panel = 0;
    configure(kTileRows);
    for (; panel + 2 <= whole; panel += 2) {
      ask_for_next<kB>(chunk, panel / 2, whole / 2);
      run_block<2, kB>(chunk, panel, kTileRows);
    }
    if (panel < whole) run_block<1, kB>(chunk, panel, kTileRows);
    if (left == 0) return;
    configure(left);
    run_block<1, kB>(chunk, whole, left);
  }

  // What tiles will be made of next, as rows pass by: of the next panels, or of the next spans.
  template <int kB>
  void ask_for_next(const Chunk& chunk, std::int64_t part, std::int64_t parts) const {
    const bool wraps = chunk.panel + kB >= panels_;
    const std::int64_t panel = wraps ? 0 : chunk.panel + kB;
    const std::int64_t first = wraps ? chunk.first + kTileChunkSpans : chunk.first;
    const std::int64_t panels = min(2, panels_ - panel),
                       spans = min(kTileChunkSpans, spans_ - first);
    if constexpr (std::is_pointer_v<Span>)
      for (std::int64_t b = 0; b < panels; ++b)
        for (std::int64_t i = 0; i < spans; ++i)
          prefetch_part(w_.span(panel + b, first + i), w_.source_bytes(), part, parts);
  }

  // kA panels of x by kB of outputs: tile 2a + b is the sums of a and b.
  template <int kA, int kB>
  void run_block(const Chunk& chunk, std::int64_t x_panel, std::int64_t rows) {
    begin_sum<kA, kB, 0>(chunk, x_panel), begin_sum<kA, kB, 1>(chunk, x_panel);
    begin_sum<kA, kB, 2>(chunk, x_panel), begin_sum<kA, kB, 3>(chunk, x_panel);
    for (std::int64_t i = 0; i < chunk.spans; ++i)
      for (std::int64_t step = 0; step < kSteps; ++step) {
        tiles_.template load<4>(x_tile(x_panel, rows, chunk.first + i, step), kTileRowBytes);
        tiles_.template load<6>(chunk.w[0][i] + W::tile_at(step), W::kRowStride);
        tiles_.template multiply<0, 4, 6>();
        if constexpr (kB == 2) {
          tiles_.template load<7>(chunk.w[1][i] + W::tile_at(step), W::kRowStride);
          tiles_.template multiply<1, 4, 7>();
        }
        if constexpr (kA == 2) {
          tiles_.template load<5>(x_tile(x_panel + 1, rows, chunk.first + i, step), kTileRowBytes);
          tiles_.template multiply<2, 5, 6>();
          if constexpr (kB == 2) tiles_.template multiply<3, 5, 7>();
        }
      }
    end_sum<kA, kB, 0>(chunk, x_panel), end_sum<kA, kB, 1>(chunk, x_panel);
    end_sum<kA, kB, 2>(chunk, x_panel), end_sum<kA, kB, 3>(chunk, x_panel);
  }

  template <int kA, int kB, int kTile>
  void begin_sum(const Chunk& chunk, std::int64_t x_panel) {
    if constexpr (kTile / 2 < kA && kTile % 2 < kB) {
      if (chunk.first == 0) {
        tiles_.template zero<kTile>();
      } else {
        tiles_.template load<kTile>(sums_of(x_panel + kTile / 2, chunk.panel + kTile % 2),
                                    kTileRowBytes);
      }
    }
  }
  template <int kA, int kB, int kTile>
  void end_sum(const Chunk& chunk, std::int64_t x_panel) {
    if constexpr (kTile / 2 < kA && kTile % 2 < kB)
      tiles_.template store<kTile>(sums_of(x_panel + kTile / 2, chunk.panel + kTile % 2),
                                   kTileRowBytes);
  }

  // Sums [rows, 16], of rows from `row` on and panel `panel`.
  void write_tile(const char* sums, std::int64_t row, std::int64_t rows, std::int64_t panel) const {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t i = 0; i < kPanelOutputs; i += S::kLanes) {
        const std::int64_t output = panel * kPanelOutputs + i;
        write_sums<S>(S::load(reinterpret_cast<const float*>(sums + r * kTileRowBytes) + i),
                      job_.scale, job_.outputs - output,
                      job_.out + (row + r) * job_.out_stride + output);
      }
  }

  const TileJob& job_;
  const W& w_;
  const std::int64_t panels_, spans_;
  Tiles tiles_;
  std::int64_t configured_ = 0;  // rows of x
  const char* ready_ = nullptr;
  std::int64_t ring_ = 0;
};

template <class S, class Tiles, class W, class Job>
void tile_product(const Job& job, float scale) {
  const TileJob all{job.x, job.rows, job.outputs,    job.k,
                    scale, job.out,  job.out_stride, static_cast<char*>(job.scratch)};
  TileProduct<S, Tiles, W>(all, W(job)).run();
}

template <class S, class Tiles>
void dot_in_tiles(const DotJob& job) {
  tile_product<S, Tiles, StoredTiles<S>>(job, job.w.scale);
}

// f(job) for each group of a job.
template <class F>
void for_groups(PanelJob job, F f) {
  for (std::int64_t left = job.outputs; left > 0; left -= kGroupOutputs) {
    job.outputs = left < kGroupOutputs ? left : kGroupOutputs;
    f(job);
    job.group += kGroupOutputs / kPanelOutputs * panel_bytes(job.format, job.k);
    job.out += kGroupOutputs;
  }
}

// D's rows of x lie in panels.
template <class D>
struct WithXInPanels : D {
  static constexpr bool kXInPanels = true;
};

template <class D, class Tiles, template <class, bool> class Scaled>
void e2m1_product_in_tiles(const PanelJob& job) {
  using S = typename D::Simd;
  if constexpr (D::kHasQuads) {
    if (job.rows <= kFewRowsMax)
      return for_groups(job, grid_product<WithXInPanels<D>, typename Scaled<S, true>::Panel>);
  }
  tile_product<S, Tiles, ScaledPanelTiles<S, Scaled>>(job, job.scale);
}

// Rows that vectors multiply with the bits of tiles. (Emerald Rapids, one row of MXFP8 from memory:
// 0.91-0.97 of the read bandwidth; by way of tiles, their loads imitated, 0.77.)
template <class D, class P, int kRows>
void few_rows(PanelJob job) {
  const void* x[kRows];
  for (int r = 0; r < kRows; ++r)
    x[r] = static_cast<const char*>(job.x[0]) + x_panel_bytes(job.k, kRows) +
           r * packed_bytes<D>(job.k);
  job.x = x;
  auto* sums = static_cast<float*>(job.scratch);
  {
    const TileRounding rounding;
    group_tile<DecodedSpan<D, P, kRows>, kRows, Ahead::kLines>(job, {0, spans_of(job.k)}, 0, sums);
  }
  write_block<typename D::Simd>(job, 0, kRows, sums);
}

template <class D, class Tiles>
void mxfp8_product_in_tiles(const PanelJob& job) {
  using S = typename D::Simd;
  if constexpr (FewRows<D>::kExists) {
    if (job.rows <= kFewRowsMax)
      return for_groups(job, [](const PanelJob& group) {
        with_constant<kFewRowsMax>(group.rows, [&](auto rows) {
          few_rows<FewRows<D>, Mxfp8Panel<S>, decltype(rows)::value>(group);
        });
      });
  }
  tile_product<S, Tiles, ScaledPanelTiles<S, ScaledMxfp8>>(job, job.scale);
}

template <class D, class Tiles>
void panel_dot_in_tiles(const PanelJob& job) {
  using S = typename D::Simd;
  if (job.rows == 0) return;
  switch (job.format) {
    case WeightFormat::kBF16:
      return tile_product<S, Tiles, Bf16PanelTiles>(job, job.scale);
    case WeightFormat::kMxfp8:
      return mxfp8_product_in_tiles<D, Tiles>(job);
    case WeightFormat::kMxfp4:
      return e2m1_product_in_tiles<D, Tiles, ScaledMxfp4>(job);
    case WeightFormat::kNvfp4:
      return e2m1_product_in_tiles<D, Tiles, ScaledNvfp4>(job);
    default:  // kInt8, whose x is packed otherwise, has panel_dot_int8
      __builtin_unreachable();
  }
}

}  // namespace
}  // namespace m3::cpu
