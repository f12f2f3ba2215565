#include "model/weight_table.h"

#include "model/config_readers.h"
#include "model/weight_table_builder.h"

namespace m3 {
namespace {

constexpr Init kNorm{0, 0.2};
constexpr double kHeadGain = 2.5;

void add_embedding(const TableBuilder& table, const Config& c, Weights* weights) {
  WeightSpec& spec = table.weight("embed_tokens.weight", {c.vocab, c.hidden}, {0, 1});
  spec.split = Split::kVocabRows;
  spec.kind = Kind::kEmbedding;
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
  const LinearStyle style{Split::kVocabRows, Fusion::kNone, Kind::kHead, kHeadGain,
                          /*quantised=*/false};
  builder.linear("lm_head", c.vocab, c.hidden, style,
                 weights == nullptr ? nullptr : &weights->head);
}

// One module (spec: text-model §2.3). transformers leaves them out, so they have no native names.
void add_mtp(std::vector<WeightSpec>& table, const Config& c, std::int64_t module, MtpWeights* w) {
  const TableBuilder mtp =
      TableBuilder(table, Part::kMtp, "language_model.model.mtp.", "").layer(module);
  const auto norm = [&](const char* name, Tensor MtpWeights::*member) {
    mtp.vector(name, c.hidden, kNorm, w == nullptr ? nullptr : &(w->*member));
  };
  norm("enorm.weight", &MtpWeights::embedding_norm);
  norm("hnorm.weight", &MtpWeights::hidden_norm);
  norm("final_layernorm.weight", &MtpWeights::final_norm);
  mtp.linear("eh_proj", c.hidden, 2 * c.hidden, {.kind = Kind::kMtpJoin},
             w == nullptr ? nullptr : &w->join);
  add_layer(mtp.inside("transformer_layer."), c, /*sparse=*/true, /*moe=*/true,
            w == nullptr ? nullptr : &w->layer);
}

void add_all_mtp(std::vector<WeightSpec>& table, const Config& c, std::int64_t modules,
                 Weights* weights) {
  const bool placed = weights != nullptr && !weights->mtp.empty();
  for (std::int64_t module = 0; module < modules; ++module)
    add_mtp(table, c, module,
            placed ? &weights->mtp.at(static_cast<std::size_t>(module)) : nullptr);
}

}  // namespace

std::string_view kind_name(Kind kind) {
  constexpr std::string_view kNames[] = {
      "norms",          "embedding",      "attention",      "indexer", "dense MLP", "router",
      "routed experts", "shared experts", "MTP projection", "head",    "vision"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::int64_t WeightSpec::elements() const {
  std::int64_t count = 1;
  for (std::int64_t axis : shape) count *= axis;
  return count;
}

Status check_mtp(const Config& c, std::int64_t modules) {
  if (c.experts == 0 || c.experts_per_token == 0 || c.expert_inner == 0 || c.index_heads == 0 ||
      c.index_dim == 0)
    return fail("an MTP module is a sparse MoE layer, but the config lacks the sizes of {}",
                c.index_heads == 0 || c.index_dim == 0 ? "the indexer (sparse_attention_config)"
                                                       : "the experts");
  if (c.experts * (c.layers + modules) > kExpertsMax)
    return fail("{} MTP modules of {} experts beside {} layers are more than {} experts", modules,
                c.experts, c.layers, kExpertsMax);
  return {};
}

Result<std::vector<WeightSpec>> weight_table(const Config& config, std::int64_t mtp_modules,
                                             Weights* weights) {
  if (mtp_modules > 0) M3_TRY_STATUS(check_mtp(config, mtp_modules));
  std::vector<WeightSpec> table;
  const TableBuilder text(table, Part::kText, "language_model.model.", "model.language_model.");
  add_embedding(text, config, weights);
  add_layers(text, config, weights);
  text.vector("norm.weight", config.hidden, kNorm,
              weights == nullptr ? nullptr : &weights->final_norm);
  add_head(table, config, weights);
  if (config.vision)
    add_vision(table, config, weights == nullptr || !weights->vision ? nullptr : &*weights->vision);
  add_all_mtp(table, config, mtp_modules, weights);
  return table;
}

Result<std::vector<WeightSpec>> mtp_weight_table(const Config& config, std::int64_t mtp_modules,
                                                 Weights* weights) {
  M3_TRY_STATUS(check_mtp(config, mtp_modules));
  std::vector<WeightSpec> table;
  add_all_mtp(table, config, mtp_modules, weights);
  return table;
}

}  // namespace m3
