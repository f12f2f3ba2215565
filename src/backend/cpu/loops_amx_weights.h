// Weights as tiles want their second factor: 16 or 8 pairs of columns, each of 16 outputs side by
// side. So lies bfloat16 in panels (panels.h), which are read in place; other formats are decoded,
// scales included. For isa_*.cc only.
//
// What loops_amx.h asks of a class W here:
// - kStepColumns: of a tile; in NVFP4 those of a block, so that its sum stands alone;
// - kInPlace, kRowStride, tile_at(step): where a span's tiles lie, bytes from its start;
// - span(panel, s): where span s of panel `panel` of the job lies, a W::Span; after(span): the next
//   in memory, of the next panel of the group or the first one's next;
// - tile<kAsks>(span, step, room): one of its tiles, in place or in `room` [kTileBytes]; asks for
//   memory behind what it is made of, line by line;
// - source_bytes(): of a span, where W::Span is a pointer.
#pragma once

#include <cstdint>

#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/loops_panel_codecs.h"
#include "backend/cpu/loops_panels.h"
#include "backend/cpu/loops_weights.h"

namespace m3::cpu {
namespace {

// The spans of a job of one or more groups.
class PanelSpans {
 public:
  using Span = const std::uint8_t*;

  explicit PanelSpans(const PanelJob& job) : job_(job) {}
  Span span(std::int64_t panel, std::int64_t s) const {
    constexpr std::int64_t kGroupPanels = kGroupOutputs / kPanelOutputs;
    const std::int64_t first = panel / kGroupPanels * kGroupPanels;
    const std::int64_t after = panels_of(job_.outputs) - first;
    const std::int64_t panels = after < kGroupPanels ? after : kGroupPanels;
    return reinterpret_cast<const std::uint8_t*>(job_.group) +
           first * panel_bytes(job_.format, job_.k) +
           (s * panels + panel - first) * span_bytes(job_.format);
  }
  Span after(Span span) const { return span + source_bytes(); }
  std::int64_t source_bytes() const { return span_bytes(job_.format); }

 private:
  const PanelJob& job_;
};

class Bf16PanelTiles : public PanelSpans {
 public:
  static constexpr bool kInPlace = true;
  static constexpr std::int64_t kStepColumns = 32;
  static constexpr std::int64_t kRowStride = 2 * kTileRowBytes;  // two blocks take turns
  static constexpr std::int64_t tile_at(std::int64_t step) {
    return step / 2 * 2 * kTileBytes + step % 2 * kTileRowBytes;
  }

  using PanelSpans::PanelSpans;
  template <bool kAsks>
  static const char* tile(Span span, std::int64_t step, char*) {
    for (std::int64_t at = 0; kAsks && at < kTileBytes; at += 64)
      ask_ahead(span + step * kTileBytes + at);
    return reinterpret_cast<const char*>(span) + tile_at(step);
  }
};

template <std::int64_t kColumns>
struct DecodedTiles {
  static constexpr bool kInPlace = false;
  static constexpr std::int64_t kStepColumns = kColumns;
  static constexpr std::int64_t kRowStride = kTileRowBytes;
  static constexpr std::int64_t tile_at(std::int64_t step) {
    return step * kStepColumns / 2 * kTileRowBytes;
  }
};

// f(eight scale bytes) of both halves of a block's.
template <class F>
bool of_all_scales(const std::uint8_t* scales, F f) {
  static_assert(kPanelOutputs == 16);
  std::uint64_t low, high;
  __builtin_memcpy(&low, scales, 8);
  __builtin_memcpy(&high, scales + 8, 8);
  return f(low) && f(high);
}

// The same number below 2^9, at an exponent's place in both halves of each word.
template <class S>
typename S::H in_both_exponents(typename S::H words) {
  const auto low = S::template shift_left_32<7>(words);
  return S::bit_or(low, S::template shift_left_32<16>(low));
}

// One vector of a block of a panel: its scales as they are applied to loads of values. kOrdinary:
// by adding to exponents, where no number leaves the range of bfloat16.
template <class S, bool kOrdinary>
struct ScaledMxfp8 {
  using Panel = Mxfp8Panel<S>;
  // From 2^-63 to 2^64: the upper two bits differ.
  static bool are_ordinary(const std::uint8_t* scales) {
    constexpr std::uint64_t kUpper = 0x8080'8080'8080'8080;
    return of_all_scales(scales, [](std::uint64_t x) { return ((x ^ x << 1) & kUpper) == kUpper; });
  }

  explicit ScaledMxfp8(const std::uint8_t* scales) : scale(Panel::scales(scales)) {
    bias = in_both_exponents<S>(S::sub_32(S::widen_8(scales), S::set1_32(7)));
  }
  void load(const std::uint8_t* p, typename S::H* w) const {
    const auto x = S::load_h(p);
    if (!kOrdinary || !S::all_bytes_have(x, 0x78)) [[unlikely]] {
      Panel::load(p, w);
      for (int u = 0; u < Panel::kVectors; ++u) w[u] = scaled_pairs<S>(w[u], scale);
      return;
    }
    w[0] = S::add_16(e4m3_fields<S>(S::template shift_left<8>(x)), bias);
    w[1] = S::add_16(e4m3_fields<S>(x), bias);
  }

  typename S::F scale;
  typename S::H bias;
};

template <class S, bool kOrdinary>
struct ScaledMxfp4 {
  using Panel = Mxfp4Panel<S>;
  // From 2^-63 to 1: what is taken off an exponent leaves zeros what they are.
  static bool are_ordinary(const std::uint8_t* scales) {
    constexpr std::uint64_t kUpperTwo = 0xc0c0'c0c0'c0c0'c0c0, kSecond = 0x4040'4040'4040'4040;
    return of_all_scales(scales, [](std::uint64_t x) { return (x & kUpperTwo) == kSecond; });
  }

  explicit ScaledMxfp4(const std::uint8_t* scales) : scale(Panel::scales(scales)) {
    less = in_both_exponents<S>(S::sub_32(S::set1_32(127), S::widen_8(scales)));
  }
  void load(const std::uint8_t* p, typename S::H* w) const {
    Panel::load(p, w);
    for (int u = 0; u < Panel::kVectors; ++u)
      w[u] = kOrdinary ? S::sub_to_zero_16(w[u], less) : scaled_pairs<S>(w[u], scale);
  }

  typename S::F scale;
  typename S::H less;
};

template <class S, bool kOrdinary>
struct ScaledNvfp4 {
  using Panel = Nvfp4Panel<S>;
  static bool are_ordinary(const std::uint8_t*) { return false; }

  explicit ScaledNvfp4(const std::uint8_t* scales) : scale(Panel::scales(scales)) {}
  void load(const std::uint8_t* p, typename S::H* w) const {
    Panel::load(p, w);
    for (int u = 0; u < Panel::kVectors; ++u) w[u] = scaled_pairs<S>(w[u], scale);
  }

  typename S::F scale;
};

// Panels of a format with scales; Scaled is one of the above.
template <class S, template <class, bool> class Scaled>
class ScaledPanelTiles
    : public PanelSpans,
      public DecodedTiles<SpanShape<typename Scaled<S, true>::Panel>::kBlockColumns> {
 public:
  using Panel = typename Scaled<S, true>::Panel;
  using Shape = SpanShape<Panel>;

  using PanelSpans::PanelSpans;
  template <bool kAsks>
  static const char* tile(Span span, std::int64_t step, char* room) {
    const std::uint8_t* scales = span + step * kPanelOutputs;
    if (kAsks && step % kStepsOfScaleLine == 0) ask_ahead(scales);
    Scaled<S, true>::are_ordinary(scales) ? decode<true, kAsks>(span, step, room)
                                          : decode<false, kAsks>(span, step, room);
    return room;
  }

 private:
  static constexpr std::int64_t kStepsOfScaleLine = 64 / kPanelOutputs;

  template <bool kOrdinary, bool kAsks>
  [[gnu::noinline]] static void decode(const std::uint8_t* span, std::int64_t block, char* room) {
    const int b = static_cast<int>(block);
    for (int v = 0; v < kPanelVectors<S>; ++v) {
      const Scaled<S, kOrdinary> scaled(span + Shape::scales_at(b) + v * S::kLanes);
      char* out = room + v * S::kLanes * 4;
#pragma GCC unroll 8
      for (int i = 0; i < Shape::kLoads; ++i) {
        const std::uint8_t* here = span + Shape::values_at(b, i) + v * S::kLanes * 4;
        if (kAsks && v == 0) ask_ahead(here);
        typename S::H w[Panel::kVectors];
        scaled.load(here, w);
#pragma GCC unroll 4
        for (int u = 0; u < Panel::kVectors; ++u, out += kTileRowBytes) S::store_h(out, w[u]);
      }
    }
  }
};

// Weights as stored, in any format: 16 rows at a time are decoded and turned over.
template <class S>
class StoredTiles : public DecodedTiles<32> {
 public:
  struct Span {
    std::int64_t panel, s;
  };

  explicit StoredTiles(const DotJob& job) : job_(job) {}
  Span span(std::int64_t panel, std::int64_t s) const { return {panel, s}; }
  Span after(Span span) const {
    constexpr std::int64_t kGroupPanels = kGroupOutputs / kPanelOutputs;
    const bool last = ++span.panel % kGroupPanels == 0 || span.panel == panels_of(job_.outputs);
    if (last) return {(span.panel - 1) / kGroupPanels * kGroupPanels, span.s + 1};
    return span;
  }

  template <bool kAsks>
  const char* tile(Span span, std::int64_t step, char* room) const {
    __builtin_memset(room, 0, kTileBytes);
    const std::int64_t begin = span.s * kSpanColumns + step * kStepColumns;
    const std::int64_t end = begin + kStepColumns < job_.k ? begin + kStepColumns : job_.k;
    for (std::int64_t n = span.panel * kPanelOutputs; begin < end && n < job_.outputs; ++n) {
      if (n == (span.panel + 1) * kPanelOutputs) break;
      std::uint16_t row[kStepColumns] = {};
      decode_row<S>(job_.w, n, job_.k, begin, end, row);
      for (std::int64_t pair = 0; pair < kStepColumns / 2; ++pair)
        __builtin_memcpy(room + pair * kTileRowBytes + n % kPanelOutputs * 4, row + 2 * pair, 4);
    }
    return room;
  }

 private:
  const DotJob& job_;
};

}  // namespace
}  // namespace m3::cpu
