#include "model/weight_table.h"

#include "model/weight_table_builder.h"

namespace m3 {
namespace {

constexpr Init kNorm{0, 0.2};
constexpr double kHeadGain = 2.5;

void add_embedding(const TableBuilder& table, const Config& c, Weights* weights) {
  WeightSpec& spec = table.weight("embed_tokens.weight", {c.vocab, c.hidden}, {0, 1});
  spec.split = Split::kVocabRows;
  if (weights != nullptr) spec.place = &weights->embedding;
}

void add_layers(const TableBuilder& table, const Config& c, Weights* weights) {
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const auto l = static_cast<std::size_t>(layer);
    add_layer(table.layer(layer), c, c.sparse_layers[l], c.moe_layers[l],
              weights == nullptr ? nullptr : &weights->layers[l]);
  }
}

// transformers keeps the head at the top, under the name that the unprefixed spelling gives it.
void add_head(std::vector<WeightSpec>& table, const Config& c, Weights* weights) {
  const TableBuilder builder(table, Part::kText, "language_model.", "");
  const LinearStyle style{Split::kVocabRows, Group::kNone, kHeadGain, /*quantised=*/false};
  builder.linear("lm_head", c.vocab, c.hidden, style,
                 weights == nullptr ? nullptr : &weights->head);
}

// One module (spec: text-model §2.3). transformers leaves them out, so they have no native names.
void add_mtp(std::vector<WeightSpec>& table, const Config& c, std::int64_t module) {
  const TableBuilder mtp =
      TableBuilder(table, Part::kMtp, "language_model.model.mtp.", "").layer(module);
  for (const char* name : {"enorm.weight", "hnorm.weight", "final_layernorm.weight"})
    mtp.vector(name, c.hidden, kNorm, nullptr);
  mtp.linear("eh_proj", c.hidden, 2 * c.hidden, {}, nullptr);
  add_layer(mtp.inside("transformer_layer."), c, /*sparse=*/true, /*moe=*/true, nullptr);
}

Status check_mtp(const Config& c) {
  if (c.experts == 0 || c.experts_per_token == 0 || c.expert_inner == 0 || c.index_heads == 0 ||
      c.index_dim == 0)
    return fail("an MTP module is a sparse MoE layer, but the config lacks the sizes of {}",
                c.index_heads == 0 || c.index_dim == 0 ? "the indexer (sparse_attention_config)"
                                                       : "the experts");
  return {};
}

}  // namespace

std::int64_t WeightSpec::elements() const {
  std::int64_t count = 1;
  for (std::int64_t axis : shape) count *= axis;
  return count;
}

Result<std::vector<WeightSpec>> weight_table(const Config& config, std::int64_t mtp_modules,
                                             Weights* weights) {
  if (mtp_modules > 0) M3_TRY_STATUS(check_mtp(config));
  std::vector<WeightSpec> table;
  const TableBuilder text(table, Part::kText, "language_model.model.", "model.language_model.");
  add_embedding(text, config, weights);
  add_layers(text, config, weights);
  text.vector("norm.weight", config.hidden, kNorm,
              weights == nullptr ? nullptr : &weights->final_norm);
  add_head(table, config, weights);
  if (config.vision) add_vision(table, config);
  for (std::int64_t module = 0; module < mtp_modules; ++module) add_mtp(table, config, module);
  return table;
}

}  // namespace m3
