// The table of every weight of the model: what it is called in each spelling of the checkpoint, its
// shape, how it is stored, how it splits across ranks, how a random one is drawn, and where it
// goes. Loading, checking, counting and writing all walk it, so a weight is described in one line
// only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "model/weights.h"

namespace m3 {

// How a tensor-parallel group cuts a weight (spec: text-model §7.1).
enum class Split : std::uint8_t {
  kReplicated,  // everybody has all of it
  kRows,        // outputs: each rank a range of rows
  kKvRows,      // rows by K/V head; a head is replicated where there are more ranks than heads
  kColumns,     // inputs: each rank a range of columns, partial sums are added up
  kVocabRows,   // rows by token id
};

enum class Part : std::uint8_t { kText, kVision, kMtp };

// Weights that one fused projection or one grouped product reads must be stored in one format
// (spec: text-model §2.4). Weights of the same layer and the same fusion are such parts.
enum class Fusion : std::uint8_t {
  kNone,
  kAttention,
  kIndexer,
  kMlp,
  kExpertsIn,
  kExpertsOut,
  kShared
};

// What a weight is for: that is how people choose formats.
enum class Kind : std::uint8_t {
  kNorm,  // and every other vector
  kEmbedding,
  kAttention,
  kIndexer,
  kDenseMlp,
  kRouter,
  kExpert,
  kSharedExpert,
  kMtpJoin,
  kHead,
  kVision
};
// "routed experts", for tables.
std::string_view kind_name(Kind kind);

// A random value is mean + std * sqrt(3) * u with u uniform in [-1, 1).
struct Init {
  double mean = 0;
  double std = 0;
};

// A tensor of a checkpoint that holds the weight: all of it, or consecutive rows if the spelling
// stores several weights in one tensor. Rows count over all axes but the last.
struct Source {
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t first_row = 0;
};

// Where load_weights() puts it. A Tensor and the router's Matrix become float32 in memory of our
// own; a Linear and the embedding are viewed in place.
struct RouterPlace {
  Matrix* matrix;
};
using Place = std::variant<std::monostate, Tensor*, RouterPlace, Matrix*, Linear*>;

struct WeightSpec {
  std::string name;                 // the released one, with its prefix
  std::vector<std::int64_t> shape;  // [rows, cols] for linears
  std::vector<Source> others;       // the other spellings (spec: text-model §2.6)
  DType stored = DType::kBF16;      // in a checkpoint that is not quantised
  bool quantised = false;           // MXFP8 in the quantised release
  std::int64_t expert = -1;         // the routed expert that it belongs to; -1: none
  Split split = Split::kReplicated;
  Fusion fusion = Fusion::kNone;
  Kind kind = Kind::kNorm;
  Part part = Part::kText;
  bool has_gradient = true;  // the loss depends on it smoothly (spec: training §2.6, §2.7)
  std::int64_t layer = -1;   // of its part; -1: none
  Init init;
  Place place;

  std::int64_t elements() const;
};

// Errors: the config does not describe a sparse MoE layer, which every MTP module is, or so many
// modules have more experts than anyone could read.
Status check_mtp(const Config& config, std::int64_t modules);

// All weights that a checkpoint of this config with so many MTP modules has, in the order in which
// they are written. With `weights`, made by empty_weights(config), the places point into it; they
// stay valid while it is neither moved nor resized.
// Errors: those of check_mtp(), where there are modules.
// `weights->mtp` is empty, and then the modules have no places, or has mtp_modules entries.
Result<std::vector<WeightSpec>> weight_table(const Config& config, std::int64_t mtp_modules,
                                             Weights* weights = nullptr);

// The part of it that is MTP modules: what a standalone MTP directory holds.
Result<std::vector<WeightSpec>> mtp_weight_table(const Config& config, std::int64_t mtp_modules,
                                                 Weights* weights = nullptr);

}  // namespace m3
