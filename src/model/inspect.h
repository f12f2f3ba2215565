// What a model is made of and what it needs, from its config and the headers of its files.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "model/cache.h"
#include "model/config.h"

namespace m3 {

// `values` counts weights, however they are stored; the scales of quantised weights are no values.
struct LayerSummary {
  bool sparse = false;
  bool moe = false;
  std::int64_t values = 0;
  std::int64_t values_active = 0;  // read for one token
  std::int64_t bytes = 0;
};

struct TypeSummary {
  std::int64_t tensors = 0;
  std::int64_t elements = 0;
  std::int64_t bytes = 0;
};

// Weights of one number format, their scales included.
struct FormatSummary {
  std::int64_t weights = 0;
  std::int64_t values = 0;
  std::int64_t bytes = 0;
};

// Bytes that a context of `tokens` tokens needs besides the weights (spec: text-model §4). Whole
// pages of block_tokens tokens.
struct MemoryPlan {
  DType kv_dtype = DType::kBF16;
  DType index_dtype = DType::kBF16;
  std::int64_t tokens = 0;
  std::int64_t weights = 0;
  std::int64_t kv_per_token = 0;     // K and V of all layers
  std::int64_t index_per_token = 0;  // index keys of the sparse layers
  std::int64_t mtp_per_token = 0;    // both, of all MTP modules
  std::int64_t kv = 0;
  std::int64_t index = 0;
  std::int64_t mtp = 0;  // taken only where the modules are loaded
  std::int64_t total = 0;
};

struct ModelSummary {
  bool from_files = false;  // false: what a checkpoint of this config would hold
  std::int64_t tensors = 0;
  std::int64_t bytes = 0;          // of tensors, without headers
  std::int64_t values = 0;         // of all parts
  std::int64_t values_active = 0;  // text model only, embedding and head included
  std::int64_t values_text = 0;
  std::int64_t values_vision = 0;
  std::int64_t values_mtp = 0;
  std::int64_t scales = 0;
  std::int64_t mtp_modules = 0;
  std::vector<LayerSummary> layers;              // of the text model
  std::map<std::string, FormatSummary> formats;  // by number format, "mxfp4"
  std::map<std::string, TypeSummary> types;      // by stored type, "BF16"
  MemoryPlan memory;
  std::vector<std::string> warnings;
};

struct SummaryOptions {
  std::int64_t tokens = 0;  // to plan for; 0: positions_max
  CacheTypes cache = {};    // bfloat16 where it says nothing
  bool vision = true;       // without, the checkpoint may lack the tower
};

// With a checkpoint, checks all headers against the weight table and counts what is there; without
// (null), counts what the table says. Reads no weights. Errors: those of match_weights(), or more
// tokens than positions.
Result<ModelSummary> summarise(const Config& config, const Checkpoint* checkpoint,
                               const SummaryOptions& options = {});

// One JSON object with the names of the members above.
std::string summary_json(const Config& config, const ModelSummary& summary);
// The same for reading.
std::string summary_text(const Config& config, const ModelSummary& summary);

}  // namespace m3
