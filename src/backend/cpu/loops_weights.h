// Weights as stored, on their way to the dot loop: bfloat16 is read in place; other formats are
// decoded. For isa_*.cc only.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels.h"

namespace m3::cpu {
namespace {

constexpr std::int64_t kScaleColumns = 32;
// Scale bytes with which every e4m3 number is a normal bfloat16 (spec: text-model §2.4).
constexpr std::uint8_t kScaleLow = 10, kScaleHigh = 246;

// Asks for part `i` of `parts` of some memory, into the second-level cache. Loops spread this over
// the work that comes before it: what lies behind a block's last column is not next in memory, so
// the processor's own prefetching does not find it (a quarter of the time of 96 rows).
inline void prefetch_part(const void* memory, std::int64_t bytes, std::int64_t i,
                          std::int64_t parts) {
  const auto* base = static_cast<const char*>(memory);
  const std::int64_t lines = (bytes + 63) / 64;
  for (std::int64_t line = lines * i / parts; line < lines * (i + 1) / parts; ++line)
    __builtin_prefetch(base + line * 64, 0, 2);
}

inline float float_of(std::uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}

inline std::uint16_t bf16_bits(float x) {
  const auto u = __builtin_bit_cast(std::uint32_t, x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((u >> 16) | 0x40);
  return static_cast<std::uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

inline float e4m3_value(std::uint8_t bits) {
  const std::uint32_t sign = (bits & 0x80u) << 24, size = bits & 0x7fu;
  if (size == 0x7f) return float_of(sign | 0x7fc00000u);
  if (size < 8) return (sign ? -0x1p-9f : 0x1p-9f) * static_cast<float>(size);
  return float_of(sign | ((size << 20) + (120u << 23)));
}

inline float scale_value(std::uint8_t bits) {
  if (bits == 0) return 0x1p-127f;
  return float_of(bits == 255 ? 0x7fc00000u : static_cast<std::uint32_t>(bits) << 23);
}

inline float e2m1_value(std::uint8_t bits) {
  constexpr float kMagnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const float size = kMagnitudes[bits & 7];
  return (bits & 8) ? -size : size;
}

inline float f16_value(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16, size = bits & 0x7fffu;
  if (size >= 0x7c00) return float_of(sign | 0x7f800000u | ((size & 0x3ff) << 13));
  // The exponents' biases differ by 112; the product is exact, also for subnormal numbers.
  return float_of(sign | (size << 13)) * 0x1p112f;
}

// The rule for all bytes and scales, those that Simd::e4m3 leaves aside included.
inline void decode_e4m3_slowly(const std::uint8_t* values, std::uint8_t scale, std::int64_t n,
                               std::uint16_t* out) {
  const float factor = scale_value(scale);
  for (std::int64_t i = 0; i < n; ++i) out[i] = bf16_bits(e4m3_value(values[i]) * factor);
}

// What Simd::e4m3 adds to a byte's exponent, in both halves of a word.
inline std::uint32_t exponent_bias(std::uint8_t scale) {
  const std::uint32_t bias = (static_cast<std::uint32_t>(scale) - 7) << 7;
  return bias << 16 | (bias & 0xffff);
}

inline bool is_ordinary(std::uint8_t scale) {
  return scale >= kScaleLow && scale <= kScaleHigh;
}

// The biases of n scales; whether all are ordinary. Two plain loops, which compilers vectorise.
inline bool exponent_biases(const std::uint8_t* __restrict scales, std::int64_t n,
                            std::uint32_t* __restrict biases) {
  for (std::int64_t i = 0; i < n; ++i) biases[i] = exponent_bias(scales[i]);
  std::uint8_t low = 255, high = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    low = scales[i] < low ? scales[i] : low;
    high = scales[i] > high ? scales[i] : high;
  }
  return is_ordinary(low) && is_ordinary(high);
}

// Columns [begin, end) of one MXFP8 row, by the rule for all bytes. All pointers are of column 0.
inline void decode_blocks_slowly(const std::uint8_t* values, const std::uint8_t* scales,
                                 std::int64_t begin, std::int64_t end, std::uint16_t* out) {
  for (std::int64_t k = begin; k < end;) {
    const std::int64_t block_end = (k / kScaleColumns + 1) * kScaleColumns;
    const std::int64_t n = (block_end < end ? block_end : end) - k;
    decode_e4m3_slowly(values + k, scales[k / kScaleColumns], n, out + k);
    k += n;
  }
}

// `columns` of one MXFP8 row from the start of a scale block.
template <class S>
void decode_mxfp8(const std::uint8_t* values, const std::uint8_t* scales, std::int64_t columns,
                  std::uint16_t* out) {
  constexpr std::int64_t kPair = 4 * S::kLanes;
  constexpr std::int64_t kSpan = 1024;  // columns whose biases are computed together
  std::uint32_t biases[kSpan / kScaleColumns];
  for (std::int64_t start = 0; start < columns; start += kSpan) {
    const std::int64_t end = start + kSpan < columns ? start + kSpan : columns;
    const std::int64_t blocks = round_up(end - start, kScaleColumns) / kScaleColumns;
    const bool ordinary = exponent_biases(scales + start / kScaleColumns, blocks, biases);
    std::int64_t k = start;
    for (; ordinary && k + kPair <= end; k += kPair) {
      typename S::H w0, w1;
      if (!S::e4m3(values + k, biases + (k - start) / kScaleColumns, w0, w1)) [[unlikely]] {
        decode_blocks_slowly(values, scales, k, k + kPair, out);
        continue;
      }
      S::store_h(out + k, w0);
      S::store_h(out + k + kPair / 2, w1);
    }
    decode_blocks_slowly(values, scales, k, end, out);
  }
}

template <class S>
void decode_f32(const char* values, std::int64_t columns, std::uint16_t* out) {
  for (std::int64_t k = 0; k < columns; k += S::kLanes) {
    alignas(64) float x[S::kLanes] = {};
    const std::int64_t n = columns - k < S::kLanes ? columns - k : S::kLanes;
    __builtin_memcpy(x, values + k * 4, static_cast<std::uint64_t>(n) * 4);
    std::uint16_t rounded[S::kLanes];
    S::store_bf16(rounded, S::load(x));
    __builtin_memcpy(out + k, rounded, static_cast<std::uint64_t>(n) * 2);
  }
}

inline void decode_f16(const char* values, std::int64_t columns, std::uint16_t* out) {
  for (std::int64_t k = 0; k < columns; ++k) {
    std::uint16_t bits;
    __builtin_memcpy(&bits, values + k * 2, sizeof bits);
    out[k] = bf16_bits(f16_value(bits));
  }
}

// The scale of a block of one row, in float32. For formats that have scales.
inline float scale_of(WeightFormat format, const std::uint8_t* scales, std::int64_t block) {
  if (format == WeightFormat::kNvfp4) return e4m3_value(scales[block]);
  if (format != WeightFormat::kInt8) return scale_value(scales[block]);
  std::uint16_t bits;
  __builtin_memcpy(&bits, scales + 2 * block, sizeof bits);
  return f16_value(bits);
}

// Two e2m1 values a byte, the even column in the low bits; `values` and `scales` are of column 0 of
// the row, and begin is a whole block.
inline void decode_e2m1(WeightFormat format, const std::uint8_t* values, const std::uint8_t* scales,
                        std::int64_t begin, std::int64_t end, std::uint16_t* out) {
  const std::int64_t columns = layout_of(format).scale_columns;
  for (std::int64_t k = begin; k < end;) {
    const std::int64_t block_end = k + columns < end ? k + columns : end;
    const float scale = scale_of(format, scales, k / columns);
    for (; k < block_end; ++k) {
      const int bits = k % 2 == 0 ? values[k / 2] & 15 : values[k / 2] >> 4;
      *out++ = bf16_bits(e2m1_value(static_cast<std::uint8_t>(bits)) * scale);
    }
  }
}

// The product of a value and its scale has up to 18 bits: rounded to bfloat16.
inline void decode_int8(const std::uint8_t* values, const std::uint8_t* scales, std::int64_t begin,
                        std::int64_t end, std::uint16_t* out) {
  for (std::int64_t k = begin; k < end; ++k) {
    const float scale = scale_of(WeightFormat::kInt8, scales, k / kScaleColumns);
    *out++ = bf16_bits(static_cast<float>(static_cast<std::int8_t>(values[k])) * scale);
  }
}

// Columns [begin, end) of one row in bfloat16; begin is a multiple of 32.
template <class S>
void decode_row(const WeightRows& w, std::int64_t row, std::int64_t k, std::int64_t begin,
                std::int64_t end, std::uint16_t* out) {
  const auto* bytes = static_cast<const char*>(w.values);
  const std::int64_t at = row * k + begin, columns = end - begin;
  const auto* values =
      static_cast<const std::uint8_t*>(w.values) + row * value_row_bytes(w.format, k);
  // Null plus nothing where there are no scales.
  const std::uint8_t* scales = w.scales + row * scale_row_bytes(w.format, k);
  switch (w.format) {
    case WeightFormat::kBF16:
      __builtin_memcpy(out, bytes + at * 2, static_cast<std::uint64_t>(columns) * 2);
      break;
    case WeightFormat::kMxfp8:
      decode_mxfp8<S>(values + begin, scales + begin / kScaleColumns, columns, out);
      break;
    case WeightFormat::kF16:
      decode_f16(bytes + at * 2, columns, out);
      break;
    case WeightFormat::kF32:
      decode_f32<S>(bytes + at * 4, columns, out);
      break;
    case WeightFormat::kMxfp4:
    case WeightFormat::kNvfp4:
      decode_e2m1(w.format, values, scales, begin, end, out);
      break;
    case WeightFormat::kInt8:
      decode_int8(values, scales, begin, end, out);
      break;
  }
}

template <class S>
void decode(const WeightRows& w, std::int64_t outputs, std::int64_t k, std::int64_t begin,
            std::int64_t end, std::uint16_t* out) {
  for (std::int64_t n = 0; n < outputs; ++n)
    decode_row<S>(w, n, k, begin, end, out + n * (end - begin));
}

}  // namespace
}  // namespace m3::cpu
