// What each layer is made of. Two spellings of the same lists exist; a file may carry both, and
// then they must agree (spec: text-model §1.3).
#include <cmath>

#include "model/config_readers.h"

namespace m3 {
namespace {

using Flags = std::optional<std::vector<bool>>;

// A list and its name, for comparing two of them.
struct NamedFlags {
  std::string name;
  Flags flags;
};

void check_length(Fields& fields, std::string_view key, std::size_t length, std::int64_t layers) {
  if (static_cast<std::int64_t>(length) != layers)
    fields.reading().mistake("{} has {} entries; expected one for each of the {} layers",
                             fields.name_of(key), length, layers);
}

// A list of 0 and 1, one a layer.
NamedFlags frequencies(Fields& fields, std::string_view key, std::int64_t layers) {
  NamedFlags named{fields.name_of(key), std::nullopt};
  if (const auto list = fields.integers(key, {0, 1})) {
    check_length(fields, key, list->size(), layers);
    named.flags.emplace(list->begin(), list->end());
  }
  return named;
}

// A list of names, one a layer: `on` is true, `off` is false.
NamedFlags kinds(Fields& fields, std::string_view key, std::string_view off, std::string_view on,
                 std::int64_t layers) {
  NamedFlags named{fields.name_of(key), std::nullopt};
  const auto list = fields.texts(key);
  if (!list) return named;
  check_length(fields, key, list->size(), layers);
  named.flags.emplace();
  for (const std::string& kind : *list) {
    if (kind != on && kind != off)
      fields.reading().mistake("{} holds {}; expected {} or {}", named.name, kind, off, on);
    named.flags->push_back(kind == on);
  }
  return named;
}

void check_agreement(Reading& reading, const NamedFlags& a, const NamedFlags& b) {
  if (!a.flags || !b.flags || a.flags->size() != b.flags->size()) return;
  for (std::size_t layer = 0; layer < a.flags->size(); ++layer)
    if ((*a.flags)[layer] != (*b.flags)[layer])
      reading.mistake("{} and {} contradict each other at layer {}", a.name, b.name, layer);
}

// The first list that is there, or `missing` for every layer.
std::vector<bool> first_of(const NamedFlags& a, const NamedFlags& b, std::int64_t layers,
                           bool missing) {
  if (a.flags) return *a.flags;
  if (b.flags) return *b.flags;
  return std::vector<bool>(static_cast<std::size_t>(layers), missing);
}

// The same number under the name of either spelling.
std::int64_t either(Fields& text, std::string_view native, Fields* sparse, std::string_view key,
                    IntegerRange range, std::optional<std::int64_t> missing) {
  const bool has_key = sparse != nullptr && sparse->has(key);
  if (!has_key) return text.integer(native, range, missing);
  const auto value = sparse->integer(key, range);
  if (text.has(native) && text.integer(native, range) != value)
    text.reading().mistake("{} and {} contradict each other", text.name_of(native),
                           sparse->name_of(key));
  return value;
}

// Sizes of the indexer and of its blocks; required only if a layer is sparse.
void read_selection(Fields& text, Fields* sparse, Config& c) {
  const bool needed = c.sparse_layer_count() > 0;
  const auto required_or = [&](std::int64_t value) {
    return needed ? std::nullopt : std::optional(value);
  };
  constexpr IntegerRange kWidth{1, kWidthMax};
  constexpr IntegerRange kBlocks{1, 1 << 16};
  constexpr IntegerRange kForced{0, 1 << 16};
  c.index_heads =
      either(text, "index_n_heads", sparse, "sparse_num_index_heads", kWidth, required_or(0));
  c.index_dim = either(text, "index_head_dim", sparse, "sparse_index_dim", kWidth, required_or(0));
  c.block_tokens =
      either(text, "index_block_size", sparse, "sparse_block_size", kBlocks, required_or(128));
  c.selection.topk =
      either(text, "index_topk_blocks", sparse, "sparse_topk_blocks", kBlocks, required_or(16));
  c.selection.local_blocks =
      either(text, "index_local_blocks", sparse, "sparse_local_block", kForced, 1);
  if (sparse == nullptr) return;
  constexpr std::string_view kTypes[] = {"max", "lse"};
  c.selection.init_blocks = sparse->integer("sparse_init_block", kForced, 0);
  c.selection.score_type =
      sparse->choice("sparse_score_type", kTypes, 0) == 0 ? ScoreType::kMax : ScoreType::kLse;
  // A positive factor does not change which block is largest; log-sum-exp needs it (spec:
  // text-model §3.5.2).
  if (c.selection.score_type == ScoreType::kLse && c.index_dim > 0)
    c.selection.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.index_dim)));
}

// An index value projection would be needed where this list is 0; nobody ever shipped one.
void check_disabled_values(Fields& sparse, const Config& c) {
  const NamedFlags disabled = frequencies(sparse, "sparse_disable_index_value", c.layers);
  if (!disabled.flags || disabled.flags->size() != c.sparse_layers.size()) return;
  for (std::size_t layer = 0; layer < c.sparse_layers.size(); ++layer)
    if (c.sparse_layers[layer] && !(*disabled.flags)[layer])
      sparse.reading().mistake("{} is 0 for sparse layer {}; index values are not supported",
                               disabled.name, layer);
}

// The released list, after its switch: switched off, every layer is dense whatever the list says.
NamedFlags sparse_frequencies(Fields& sparse, Config& c) {
  NamedFlags named = frequencies(sparse, "sparse_attention_freq", c.layers);
  if (sparse.boolean("use_sparse_attention", true)) return named;
  c.sparse_switched_off = true;
  named.name = sparse.name_of("use_sparse_attention");
  named.flags.emplace(static_cast<std::size_t>(c.layers), false);
  return named;
}

void read_attention(Fields& text, Config& c) {
  auto sparse = text.object("sparse_attention_config");
  const auto native = kinds(text, "layer_types", "full_attention", "minimax_m3_sparse", c.layers);
  NamedFlags released;
  if (sparse) released = sparse_frequencies(*sparse, c);
  check_agreement(text.reading(), native, released);
  c.sparse_layers = first_of(native, released, c.layers, false);
  if (sparse && !native.flags && !released.flags)
    text.reading().warnings.push_back(
        fmt::format("{}: {} is missing, so every layer attends to everything", text.reading().where,
                    sparse->name_of("sparse_attention_freq")));
  read_selection(text, sparse ? &*sparse : nullptr, c);
  if (!sparse) return;
  check_disabled_values(*sparse, c);
  sparse->note_unread();
}

}  // namespace

bool spelled_natively(const Fields& text) {
  constexpr std::string_view kNative[] = {
      "layer_types",    "mlp_layer_types",  "rope_parameters",   "index_n_heads",
      "index_head_dim", "index_block_size", "index_topk_blocks", "index_local_blocks"};
  for (std::string_view key : kNative)
    if (text.has(key)) return true;
  return false;
}

void read_layers(Fields& text, Config& config) {
  const auto native = kinds(text, "mlp_layer_types", "dense", "sparse", config.layers);
  const auto released = frequencies(text, "moe_layer_freq", config.layers);
  check_agreement(text.reading(), native, released);
  config.moe_layers = first_of(native, released, config.layers, true);
  read_attention(text, config);
}

}  // namespace m3
