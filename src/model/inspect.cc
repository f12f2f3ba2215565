#include "model/inspect.h"

#include "model/quantisation.h"
#include "model/weight_match.h"
#include "model/weight_table.h"

namespace m3 {
namespace {

void add_tensor(ModelSummary& summary, DType type, std::int64_t elements) {
  const std::int64_t bytes = elements * dtype_size(type);
  TypeSummary& entry = summary.types[std::string(dtype_name(type))];
  ++entry.tensors;
  entry.elements += elements;
  entry.bytes += bytes;
  ++summary.tensors;
  summary.bytes += bytes;
}

// Counts the values of a weight, stored in so many bytes, into its format, part and layer.
void add_weight(ModelSummary& summary, const Config& config, const WeightSpec& spec,
                const Codec& codec, std::int64_t bytes) {
  const std::int64_t values = spec.elements();
  FormatSummary& format = summary.formats[std::string(codec.name)];
  ++format.weights;
  format.values += values;
  format.bytes += bytes;
  summary.values += values;
  if (spec.part == Part::kVision) summary.values_vision += values;
  if (spec.part == Part::kMtp) summary.values_mtp += values;
  if (spec.part != Part::kText) return;
  // All experts are of one size: it does not matter which of them a token picks.
  const std::int64_t active = spec.expert < config.experts_per_token ? values : 0;
  summary.values_text += values;
  summary.values_active += active;
  if (spec.layer < 0) return;
  LayerSummary& layer = summary.layers[static_cast<std::size_t>(spec.layer)];
  layer.values += values;
  layer.values_active += active;
  layer.bytes += bytes;
}

Status count_files(const Config& config, const Checkpoint& checkpoint,
                   const std::vector<WeightSpec>& table, ModelSummary& summary) {
  M3_TRY(const auto matched, match_weights(table, config, checkpoint));
  for (const auto& [name, tensor] : checkpoint.tensors())
    add_tensor(summary, tensor.info->dtype, tensor.tensor().elements());
  for (const FoundWeight& found : matched.found) {
    if (found.matrix.scales) summary.scales += found.matrix.scales.elements();
    add_weight(summary, config, *found.spec, *found.matrix.codec, found.matrix.bytes());
  }
  summary.warnings = checkpoint.warnings();
  summary.warnings.insert(summary.warnings.end(), matched.warnings.begin(), matched.warnings.end());
  return {};
}

void count_table(const Config& config, const std::vector<WeightSpec>& table,
                 ModelSummary& summary) {
  for (const WeightSpec& spec : table) {
    const Codec& codec = said_codec(config.quantisation, spec);
    const std::int64_t rows = spec.shape.front(), cols = spec.elements() / rows;
    const std::int64_t scales = rows * scale_cols(codec, cols);
    add_tensor(summary, codec.values_dtype, rows * values_cols(codec, cols));
    if (scales > 0) add_tensor(summary, codec.scales_dtype, scales);
    if (codec.whole_scale != nullptr) add_tensor(summary, DType::kF32, 1);
    summary.scales += scales;
    add_weight(summary, config, spec, codec, stored_bytes(codec, spec));
  }
}

std::vector<LayerSummary> layer_map(const Config& config) {
  std::vector<LayerSummary> layers(static_cast<std::size_t>(config.layers));
  for (std::size_t l = 0; l < layers.size(); ++l) {
    layers[l].sparse = config.sparse_layers[l];
    layers[l].moe = config.moe_layers[l];
  }
  return layers;
}

Result<MemoryPlan> plan_memory(const Config& c, std::int64_t mtp_modules, std::int64_t weights,
                               const SummaryOptions& options) {
  const std::int64_t tokens = options.tokens;
  if (tokens > c.positions_max)
    return fail("a context of {} tokens is asked for; the model has {} positions", tokens,
                c.positions_max);
  MemoryPlan plan;
  plan.tokens = tokens > 0 ? tokens : c.positions_max;
  plan.weights = weights;
  plan.kv_dtype = options.cache.kv.value_or(plan.kv_dtype);
  plan.index_dtype = options.cache.index.value_or(plan.index_dtype);
  const std::int64_t kv = 2 * c.kv_heads * c.head_dim * dtype_size(plan.kv_dtype);
  const std::int64_t index = c.index_dim * dtype_size(plan.index_dtype);
  plan.kv_per_token = c.layers * kv;
  plan.index_per_token = c.sparse_layer_count() * index;
  plan.mtp_per_token = mtp_modules * (kv + index);
  const std::int64_t pages = (plan.tokens + c.block_tokens - 1) / c.block_tokens;
  plan.kv = pages * c.block_tokens * plan.kv_per_token;
  plan.index = pages * c.block_tokens * plan.index_per_token;
  plan.mtp = pages * c.block_tokens * plan.mtp_per_token;
  plan.total = plan.weights + plan.kv + plan.index + plan.mtp;
  return plan;
}

}  // namespace

Result<ModelSummary> summarise(const Config& config, const Checkpoint* checkpoint,
                               const SummaryOptions& options) {
  ModelSummary summary;
  summary.from_files = checkpoint != nullptr;
  summary.layers = layer_map(config);
  summary.mtp_modules = config.mtp_modules;
  if (checkpoint != nullptr) {
    M3_TRY(summary.mtp_modules, count_mtp_modules(*checkpoint));
  }
  M3_TRY(auto table, weight_table(config, summary.mtp_modules));
  if (checkpoint != nullptr && !options.vision) leave_out_vision(table, *checkpoint);
  if (checkpoint != nullptr)
    M3_TRY_STATUS(count_files(config, *checkpoint, table, summary));
  else
    count_table(config, table, summary);
  M3_TRY(summary.memory, plan_memory(config, summary.mtp_modules, summary.bytes, options));
  return summary;
}

}  // namespace m3
