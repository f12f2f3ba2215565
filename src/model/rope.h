// Rotation frequencies of a configuration, plain or YaRN (spec: text-model §3.4).
#pragma once

#include "model/config.h"
#include "ops/backend.h"
#include "tensor/tensor.h"

namespace m3 {

// Writes rotary_dim / 2 frequencies into `inv_freq` [rotary_dim / 2] F32, step by step in float32
// as the official model computes them: position times one unit in the last place is a visible angle
// at a million tokens.
void compute_inv_freq(const Config& config, const Tensor& inv_freq);

// What multiplies cosine and sine: YaRN's m, or 1.
float rope_scale(const Config& config);

}  // namespace m3
