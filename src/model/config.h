// config.json of MiniMax-M3: every field the model needs, checked.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "ops/backend.h"

namespace m3 {

// YaRN context extension (spec: text-model §3.4.3).
struct Yarn {
  double factor = 1;
  std::int64_t original_positions = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;
  double attention_factor = 1;  // m: multiplies cosine and sine
};

// What an MTP module hands to the next one (spec: text-model §5.3). kPreNorm: its residual stream;
// the row at position 0 has an embedding of zeros. kPostNorm, as modules are trained here (spec:
// training §3.1): what its last norm gives; position 0 is as any other, and the module after it
// goes over the same rows, each with the token behind.
enum class MtpChain : std::uint8_t { kPreNorm, kPostNorm };
inline constexpr const char* kMtpChainKey = "mtp_chain";  // of config.json

struct VisionConfig {
  std::int64_t hidden = 0;
  std::int64_t heads = 0;
  std::int64_t layers = 0;
  std::int64_t inner = 0;
  std::int64_t patch = 14;
  std::int64_t channels = 3;
  std::int64_t image_size = 0;
  std::int64_t spatial_merge = 2;
  std::int64_t temporal_patch = 2;
  std::int64_t segment_frames = 4;
  double rope_theta = 10000;
  double norm_eps = 1e-5;
  std::int64_t projector_hidden = 0;
  bool projector_bias = true;
  bool merge_bias = true;
};

// What quantization_config says of formats (spec: text-model §1.5, §2.5); kBF16 stands for "not
// quantised". Names of modules are without the text model's prefix. The tensors decide; this is
// what random models follow, and a disagreement is worth a warning.
struct Quantisation {
  Format linears = Format::kBF16;  // of linears of which nothing below says otherwise
  std::optional<Format> experts;   // of routed experts, where those are another
  // Of these modules, or of what is inside them.
  std::map<std::string, Format, std::less<>> modules;
  std::set<std::string, std::less<>> ignored;  // these, or what is inside them, are not quantised
  std::vector<std::string> ignored_globs;      // the same as patterns
};

// The text model's sizes under the names that the code uses for its axes.
struct Config {
  std::int64_t hidden = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocab = 0;
  std::int64_t positions_max = 0;  // rows of the RoPE table: positions 0..positions_max-1 exist
  double norm_eps = 1e-6;
  double rope_theta = 5e6;
  std::int64_t rotary_dim = 0;
  std::optional<Yarn> yarn;

  SwiGlu swiglu;
  std::int64_t dense_inner = 0;
  std::int64_t expert_inner = 0;
  std::int64_t shared_inner = 0;  // one shared expert's width times the number of shared experts
  std::int64_t experts = 0;
  std::int64_t experts_per_token = 0;
  std::int64_t shared_experts = 0;  // 0: none
  RouterScore router_score = RouterScore::kSigmoid;
  bool router_bias = true;
  double routed_scale = 1;

  std::vector<bool> moe_layers;     // [layers]: MoE (true) or dense feed-forward
  std::vector<bool> sparse_layers;  // [layers]: block-sparse (true) or full attention
  // The config switches sparse attention off: indexer weights may be there and are not used.
  bool sparse_switched_off = false;
  std::int64_t index_heads = 0;
  std::int64_t index_dim = 0;
  std::int64_t block_tokens = 128;  // tokens of a block, and of a cache page
  Selection selection;

  std::int64_t mtp_modules = 0;  // as declared; the checkpoint may hold fewer
  MtpChain mtp_chain = MtpChain::kPreNorm;
  Quantisation quantisation;
  std::optional<VisionConfig> vision;
  std::int32_t image_token = -1;  // placeholder ids; -1: none
  std::int32_t video_token = -1;
  bool flat = false;  // text-only spelling: no text_config, names without prefix

  std::vector<std::string> warnings;  // unknown keys and the like, each a sentence

  std::int64_t sparse_layer_count() const;
  std::int64_t moe_layer_count() const;
};

// Reads and checks config.json text, both spellings (spec: text-model §1). `where` names the source
// in messages. Errors: not JSON, a missing or ill-typed field, or a violated rule of §1.6; the
// sentence names the field, what was found, and what is accepted.
Result<Config> parse_config(std::string_view json, std::string_view where);

// <directory>/config.json, and hf_quant_config.json, in which ModelOpt says what config.json may
// leave out (spec: text-model §2.5). Errors: as above, or the directory is not a model.
Result<Config> load_config(const std::string& directory);

}  // namespace m3
