// The weights of tower, projector and merger, member by member (spec: vision §2.1). Shapes use the
// words of VisionConfig.
#pragma once

#include <vector>

#include "ops/linear.h"
#include "tensor/tensor.h"

namespace m3 {

struct BiasedLinear {
  Linear linear;
  Tensor bias;  // [N] F32, or empty
};

struct LayerNormWeights {
  Tensor weight;  // [dim] F32
  Tensor bias;    // [dim] F32
};

struct EncoderLayerWeights {
  LayerNormWeights norm1, norm2;  // [hidden]
  BiasedLinear q, k, v, out;      // [hidden, hidden]
  BiasedLinear fc1;               // [inner, hidden]
  BiasedLinear fc2;               // [hidden, inner]
};

struct VisionWeights {
  Linear patch_embedding;     // [hidden, channels * temporal_patch * patch * patch]
  LayerNormWeights pre_norm;  // [hidden]
  std::vector<EncoderLayerWeights> layers;
  BiasedLinear projector_1;  // [projector_hidden, hidden]
  BiasedLinear projector_2;  // [text hidden, projector_hidden]
  BiasedLinear merger_1;     // [projector_hidden, spatial_merge^2 * text hidden]
  BiasedLinear merger_2;     // [text hidden, projector_hidden]
};

}  // namespace m3
