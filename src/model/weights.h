// The weights of the model, member by member. Shapes use the words of Config.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "model/config.h"
#include "model/mtp_checkpoint.h"
#include "model/packing.h"
#include "model/vision_weights.h"
#include "ops/linear.h"
#include "tensor/tensor.h"

namespace m3 {

struct AttentionWeights {
  Linear q;       // [heads * head_dim, hidden]
  Linear k;       // [kv_heads * head_dim, hidden]
  Linear v;       // [kv_heads * head_dim, hidden]
  Linear o;       // [hidden, heads * head_dim]
  Tensor q_norm;  // [head_dim] F32
  Tensor k_norm;  // [head_dim] F32
};

struct IndexerWeights {
  Linear q;       // [index_heads * index_dim, hidden]
  Linear k;       // [index_dim, hidden]
  Tensor q_norm;  // [index_dim] F32
  Tensor k_norm;  // [index_dim] F32
};

struct MlpWeights {
  Linear gate;  // [inner, hidden]
  Linear up;    // [inner, hidden]
  Linear down;  // [hidden, inner]
};

struct MoeWeights {
  Matrix router;                     // [experts, hidden], f32
  Tensor router_bias;                // [experts] F32, or empty
  std::vector<Linear> gate;          // w1, [expert_inner, hidden] each
  std::vector<Linear> up;            // w3, [expert_inner, hidden] each
  std::vector<Linear> down;          // w2, [hidden, expert_inner] each
  std::optional<MlpWeights> shared;  // inner = shared_inner
};

struct LayerWeights {
  Tensor attention_norm;  // input_layernorm [hidden] F32
  Tensor ffn_norm;        // post_attention_layernorm [hidden] F32
  AttentionWeights attention;
  std::optional<IndexerWeights> indexer;  // sparse layers
  std::optional<MlpWeights> mlp;          // dense layers; inner = dense_inner
  std::optional<MoeWeights> moe;          // MoE layers
};

// A multi-token prediction module (spec: text-model §5.2). Embedding and head are the model's.
struct MtpWeights {
  Tensor embedding_norm;  // enorm [hidden] F32
  Tensor hidden_norm;     // hnorm [hidden] F32
  Linear join;         // eh_proj [hidden, 2 * hidden]: of the embedding, then of the hidden state
  LayerWeights layer;  // sparse, MoE
  Tensor final_norm;   // final_layernorm [hidden] F32
};

// Views into the mapped checkpoint, except the small float32 tensors, which are converted once.
struct Weights {
  Matrix embedding;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  Tensor final_norm;  // [hidden] F32
  Linear head;        // [vocab, hidden]
  std::optional<VisionWeights> vision;

  // MTP modules that the checkpoint holds, whatever the config declares (spec: text-model §5.1).
  std::int64_t mtp_modules = 0;
  std::vector<MtpWeights> mtp;  // those that were asked for: all or none

  std::shared_ptr<const Checkpoint> checkpoint;      // keeps the mappings alive
  std::shared_ptr<const Checkpoint> mtp_checkpoint;  // the same of standalone MTP modules, or null
  std::shared_ptr<const PackFile> pack;              // mapped packed weights, or null
  std::vector<Buffer> converted;                     // small weights in float32, and packed ones
  std::vector<std::string> warnings;                 // each a sentence
  double packing_seconds = 0;                        // that a pack file would have saved
};

// Weights with every optional member present that the config asks for, and no data yet.
Weights empty_weights(const Config& config);

// What to load beside the text model. Everything that a checkpoint holds is checked, asked for or
// not.
struct LoadOptions {
  bool mtp = false;                             // the MTP modules, all of them
  bool vision = true;                           // the vision tower, where there is one
  std::optional<StandaloneMtp> standalone_mtp;  // these instead of the checkpoint's own
  // Provides the weights in its layout, from the pack file where there is one; null: all are used
  // as stored.
  Backend* backend = nullptr;
  Progress packing;       // counts bytes
  Progress reading_pack;  // counts bytes
};

// Loads the text model of a checkpoint: checks every tensor against the weight table, converts the
// small ones, views the rest in place. `progress` counts weights of the table. Reads no weight but
// the small ones and all scales (3 % of an MXFP8 checkpoint: a NaN scale would poison a layer
// silently, so they are worth one pass; `pool` shares it out).
// Errors: missing, extra or misshapen tensors, wrong types, NaN scales, a scale without its weight
// or an F8 weight without its scale, parts of one fused projection of which only some are
// quantised. Each names the tensor and its file. MTP modules asked for where there are none.
Result<Weights> load_weights(const Config& config, std::shared_ptr<const Checkpoint> checkpoint,
                             const Progress& progress = {}, ThreadPool* pool = nullptr,
                             const LoadOptions& options = {});

}  // namespace m3
