// A weight matrix in the format in which it is stored, and the codecs of those formats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"
#include "tensor/tensor.h"

namespace m3 {

struct Codec;

// W [rows, cols] as stored: y = W x has `rows` outputs and sums over `cols`. A view; whoever loaded
// it owns the bytes. Adding a format means adding a codec file and, where a backend wants it fast,
// a kernel for it.
struct Matrix {
  const Codec* codec = nullptr;
  Tensor values;  // [rows, values_cols(codec, cols)] of the codec's type
  Tensor scales;  // [rows, scale_cols(codec, cols)], empty for codecs without scales
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  // A factor of the whole matrix: NVFP4's weight_scale_2, 1 for every other format. What values and
  // scales say is exact in bfloat16, their product with this is not: backends multiply the float32
  // sums by it, once an output, in the epilogue.
  float scale = 1;
  // The same weight in the layout that the backend in use reads fastest (Backend::pack), or null.
  const std::byte* packed = nullptr;

  explicit operator bool() const { return codec != nullptr; }
  std::int64_t bytes() const { return values.bytes() + (scales ? scales.bytes() : 0); }
};

enum class Format : std::uint8_t { kF32, kBF16, kF16, kMxfp8, kMxfp4, kNvfp4, kInt8 };

// How one format lies in memory, and its exact meaning.
struct Codec {
  Format format;
  std::string_view name;  // "f32", "bf16", "f16", "mxfp8", "mxfp4", "nvfp4", "int8"
  DType values_dtype;
  // Values in one stored element: 2 where a byte holds two columns, the even one in its low bits.
  // `cols` must be a multiple of it.
  std::int64_t packed;
  // 0: no scales. Otherwise one scale for this many consecutive columns of one row (the last may
  // cover fewer), stored [rows, ceil(cols / scale_columns)].
  std::int64_t scale_columns;
  DType scales_dtype;  // as we write them; kU8 stands for an E8M0 exponent

  // W[row, begin..end) in float32 into out[0..end - begin): exact but for Matrix::scale, the
  // product with which is rounded once. (A magnitude beyond float32, from exponents that no
  // quantiser chooses, is infinite.)
  void (*decode)(const Matrix& w, std::int64_t row, std::int64_t begin, std::int64_t end,
                 float* out);
  // Quantises one row of `cols` float32 values, all finite: writes the row's values and scales.
  // `factor` is the Matrix::scale that whole_scale() gave for the matrix.
  void (*encode)(const float* row, std::int64_t cols, float factor, void* values, void* scales);
  // Errors: a stored number that the format forbids (a NaN scale), with its row and block.
  Status (*check)(const Matrix& w);
  // Matrix::scale for a matrix whose largest magnitude is `largest`; null: always 1.
  float (*whole_scale)(float largest);
};

// All codecs, in a fixed order.
std::span<const Codec* const> codecs();
const Codec& codec_of(Format format);
// Errors: an unknown name; the message lists the known ones.
Result<const Codec*> codec_named(std::string_view name);
// The codec whose values and scales have these types (`scales` is empty where there are none); null
// if there is none. An E8M0 exponent may be U8 or F8_E8M0.
const Codec* codec_for(DType values, std::optional<DType> scales);

// Columns of Matrix::values and Matrix::scales.
std::int64_t values_cols(const Codec& codec, std::int64_t cols);
std::int64_t scale_cols(const Codec& codec, std::int64_t cols);
// Bytes of one row of either.
std::int64_t value_row_bytes(const Codec& codec, std::int64_t cols);
std::int64_t scale_row_bytes(const Codec& codec, std::int64_t cols);

// Whether the format can hold rows of so many columns.
bool fits(const Codec& codec, std::int64_t cols);

// Rows [begin, end) of a matrix, scales with them.
Matrix matrix_rows(const Matrix& w, std::int64_t begin, std::int64_t end);

}  // namespace m3
