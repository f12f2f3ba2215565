#include <array>
#include <nlohmann/json.hpp>

#include "model/config_readers.h"
#include "model/eagle3_table.h"

namespace m3 {
namespace {

using Json = nlohmann::json;

void read_sizes(Fields& top, Config& c) {
  constexpr std::string_view kActivations[] = {"silu"};
  c.hidden = top.integer("hidden_size", {1, kWidthMax});
  c.heads = top.integer("num_attention_heads", {1, kWidthMax});
  c.kv_heads = top.integer("num_key_value_heads", {1, kWidthMax}, c.heads);
  c.head_dim =
      top.integer("head_dim", {1, kWidthMax}, std::max<std::int64_t>(1, c.hidden / c.heads));
  c.dense_inner = top.integer("intermediate_size", {1, kWidthMax});
  c.norm_eps = top.number("rms_norm_eps", {0, 1}, 1e-6);
  c.rope_theta = top.number("rope_theta", {1, 1e12}, 10000);
  c.rotary_dim = c.head_dim;
  top.choice("hidden_act", kActivations, 0);
  // silu(gate) * up.
  c.swiglu = {.alpha = 1, .limit = 0, .beta = 0};
  if (c.heads % c.kv_heads != 0)
    top.reading().mistake(
        "num_attention_heads is {}; expected a multiple of num_key_value_heads, {}", c.heads,
        c.kv_heads);
  if (c.head_dim % 2 != 0)
    top.reading().mistake("head_dim is {}; expected an even number, of which all is rotated",
                          c.head_dim);
}

// What other layers of this kind have, and this one has not.
void refuse_others(Fields& top) {
  top.require_flag("attention_bias", false);
  top.require_flag("mlp_bias", false);
  top.require_flag("norm_before_residual", false);
  if (auto rope = top.object("rope_scaling")) {
    rope->require_text("rope_type", "default");
    rope->require_text("type", "default");
  }
}

void check_target(Fields& top, Eagle3Config& config, const Config& target) {
  config.target_hidden = top.integer("target_hidden_size", {1, kWidthMax}, target.hidden);
  config.target_vocab = top.integer("vocab_size", {1, kVocabMax}, target.vocab);
  if (config.target_hidden != target.hidden)
    top.reading().mistake(
        "target_hidden_size is {}, but the model has {}: this draft model belongs "
        "to another model",
        config.target_hidden, target.hidden);
  if (config.target_vocab != target.vocab)
    top.reading().mistake(
        "vocab_size is {}, but the model has {}: this draft model belongs to another model",
        config.target_vocab, target.vocab);
  config.layer.vocab = top.integer("draft_vocab_size", {1, target.vocab}, target.vocab);
}

// Spec: text-model §6.
void read_taps(Fields& top, Eagle3Config& config, const Config& target) {
  constexpr const char* kTaps = "eagle_aux_hidden_state_layer_ids";
  constexpr std::size_t kTapsMax = 16;
  const IntegerRange range{0, target.layers};
  auto taps = top.integers(kTaps, range);
  if (auto eagle = top.object("eagle_config"); eagle && !taps) taps = eagle->integers(kTaps, range);
  if (!taps && target.layers < 3) {
    top.reading().mistake("{} is missing, and a model of {} layers has no default", kTaps,
                          target.layers);
    return;
  }
  config.taps = taps ? *taps : std::vector<std::int64_t>{2, target.layers / 2, target.layers - 3};
  if (config.taps.empty() || config.taps.size() > kTapsMax)
    top.reading().mistake("{} lists {} layers; expected 1 to {}", kTaps, config.taps.size(),
                          kTapsMax);
}

}  // namespace

Result<Eagle3Config> parse_eagle3_config(const std::string& text, const std::string& where,
                                         const Config& target) {
  const Json document = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) return fail("{} is not a JSON object", where);
  if (!document.contains("hidden_size"))
    return fail(
        "{}: this is no EAGLE3 draft model, whose config has hidden_size and its other sizes at "
        "the top",
        where);
  Reading reading{where, {}, {}, {}};
  Fields top(reading, document, "");
  Eagle3Config config;
  read_sizes(top, config.layer);
  refuse_others(top);
  check_target(top, config, target);
  read_taps(top, config, target);
  M3_TRY_STATUS(reading.status());
  Config& layer = config.layer;
  layer.layers = 1;
  layer.sparse_layers = layer.moe_layers = {false};
  layer.block_tokens = target.block_tokens;
  layer.positions_max = target.positions_max;
  return config;
}

}  // namespace m3
