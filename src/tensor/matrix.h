// A weight matrix in the format in which it is stored, and the codecs of those formats.
#pragma once

#include <cstdint>
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
  Tensor values;  // shape and type are the codec's: values_shape(rows, cols)
  Tensor scales;  // empty for codecs without scales
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  explicit operator bool() const { return codec != nullptr; }
  std::int64_t bytes() const { return values.bytes() + (scales ? scales.bytes() : 0); }
};

enum class Format : std::uint8_t { kF32, kBF16, kF16, kMxfp8 };

// How one format lies in memory, and its exact meaning.
struct Codec {
  Format format;
  std::string_view name;  // "f32", "bf16", "f16", "mxfp8"
  DType values_dtype;
  // 0: no scales. Otherwise one scale for this many consecutive columns of one row (the last may
  // cover fewer), stored [rows, ceil(cols / scale_columns)].
  std::int64_t scale_columns;

  // Exact float32 value of W[row, begin..end) into out[0..end - begin).
  void (*decode)(const Matrix& w, std::int64_t row, std::int64_t begin, std::int64_t end,
                 float* out);
  // Quantises one row of `cols` float32 values: writes the row's values and scales.
  void (*encode)(const float* row, std::int64_t cols, void* values, std::uint8_t* scales);
  // Errors: a stored number that the format forbids (a NaN scale), with its row and block.
  Status (*check)(const Matrix& w);
};

// All codecs, in a fixed order.
std::span<const Codec* const> codecs();
const Codec& codec_of(Format format);
// Errors: an unknown name; the message lists the known ones.
Result<const Codec*> codec_named(std::string_view name);
// The codec whose values have this type and which has scales iff `scaled`; null if there is none.
const Codec* codec_for(DType values, bool scaled);

// The scales' shape is [rows, scale_cols(codec, cols)].
std::int64_t scale_cols(const Codec& codec, std::int64_t cols);

// Rows [begin, end) of a matrix, scales with them.
Matrix matrix_rows(const Matrix& w, std::int64_t begin, std::int64_t end);

}  // namespace m3
