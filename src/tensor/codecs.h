// One codec a file: codec_plain.cc (f32, bf16, f16) and codec_mxfp8.cc.
#pragma once

#include "tensor/matrix.h"

namespace m3 {

extern const Codec kF32Codec;
extern const Codec kBF16Codec;
extern const Codec kF16Codec;
extern const Codec kMxfp8Codec;

}  // namespace m3
