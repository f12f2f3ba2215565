// One codec a file: codec_plain.cc (f32, bf16, f16), codec_mxfp8.cc, codec_mxfp4.cc, codec_nvfp4.cc
// and codec_int8.cc.
#pragma once

#include "tensor/matrix.h"

namespace m3 {

extern const Codec kF32Codec;
extern const Codec kBF16Codec;
extern const Codec kF16Codec;
extern const Codec kMxfp8Codec;
extern const Codec kMxfp4Codec;
extern const Codec kNvfp4Codec;
extern const Codec kInt8Codec;

// Shared by the formats with E8M0 exponents. Errors: an exponent byte of 255.
Status check_e8m0(const Matrix& w);
// Column k of a row of bytes that hold two e2m1 numbers each.
float e2m1_at(const std::uint8_t* values, std::int64_t k);
// Puts column k there; columns are written in ascending order.
void put_e2m1(std::uint8_t* values, std::int64_t k, std::uint8_t bits);
// The largest magnitude of `count` finite numbers.
float largest_magnitude(const float* x, std::int64_t count);

}  // namespace m3
