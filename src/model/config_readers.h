// The parts of config.json, each read by one file; config.cc puts them together.
#pragma once

#include "model/config.h"
#include "model/config_fields.h"

namespace m3 {

// Bounds on what a file may claim. They are far above any model of this family, and low enough that
// no product of sizes in bytes leaves 63 bits and no table of weights fills the memory.
inline constexpr std::int64_t kLayersMax = 10000;
inline constexpr std::int64_t kWidthMax = 1 << 20;  // any axis of a layer
inline constexpr std::int64_t kVocabMax = 1 << 24;
inline constexpr std::int64_t kPositionsMax = 1 << 28;
inline constexpr std::int64_t kExpertsMax = 1 << 16;  // of all layers together

// True if the file uses the field names of transformers' own classes (spec: text-model §1.3), which
// spell the activation differently.
bool spelled_natively(const Fields& text);

// Attention and feed-forward of every layer, and block selection (spec: text-model §1.3, §1.4).
// Needs config.layers.
void read_layers(Fields& text, Config& config);

// The fields that read_rope() reads.
inline constexpr std::string_view kRopeFields[] = {
    "rope_theta",   "rotary_dim",      "partial_rotary_factor",
    "rope_scaling", "rope_parameters", "max_position_embeddings"};

// theta, rotary_dim, YaRN and positions_max (spec: text-model §3.4.3). Needs config.head_dim.
void read_rope(Fields& text, Config& config);

// quantization_config (spec: text-model §1.5, §2.5).
void read_quantization(Fields& text, Config& config);
// hf_quant_config.json of ModelOpt: what it says comes before what config.json does. Errors: as
// parse_config.
Status parse_hf_quantization(std::string_view json, std::string_view where, Config& config);

// vision_config and the projector (spec: vision §1). Needs config.hidden.
void read_vision(Fields& top, Config& config);

// The relations between fields that spec: text-model §1.6 demands. Errors: the first violated rule.
Status check_rules(const Config& config);

}  // namespace m3
