#include "train/training_work.h"

#include <algorithm>
#include <limits>

namespace m3 {
namespace {

// Layers of the text model, then those of the MTP modules.
std::int64_t layer_of(const WeightSpec& weight, const Config& config) {
  return weight.part == Part::kMtp && weight.layer >= 0 ? config.layers + weight.layer
                                                        : weight.layer;
}

// Of what a layer computes again: not v, and no down projection.
bool is_repeated(const WeightSpec& weight) {
  if (weight.kind == Kind::kAttention) return !weight.name.ends_with("v_proj.weight");
  const bool mlp = weight.kind == Kind::kDenseMlp || weight.kind == Kind::kSharedExpert ||
                   weight.kind == Kind::kExpert;
  return mlp && weight.split == Split::kRows;
}

// Keys that all queries of a sequence see: each those before it and itself, or of sparse layers its
// own block and `blocks` - 1 before that.
double pairs_of(std::int64_t length, std::int64_t block_tokens, std::int64_t blocks) {
  const double n = static_cast<double>(length);
  const std::int64_t window = block_tokens * blocks;
  if (length <= window) return n * (n + 1) / 2;
  const double w = static_cast<double>(window);
  // Beyond the window a query sees whole blocks and, on the average, half of its own.
  return w * (w + 1) / 2 + (n - w) * (w - 0.5 * static_cast<double>(block_tokens - 1));
}

}  // namespace

AdaptedMatrices adapted_by(const Lora& lora) {
  AdaptedMatrices matrices;
  for (const LoraModule& module : lora.modules())
    matrices.push_back({std::max<std::int64_t>(0, module.layer), module.a.dim(0),
                        module.size.rank * (module.a.dim(2) + module.b.dim(1))});
  return matrices;
}

AdaptedMatrices adapted_by(std::span<const LoraChoice> choices) {
  AdaptedMatrices matrices;
  for (const auto& [site, size] : choices)
    matrices.push_back({std::max<std::int64_t>(0, site.parts.front().spec->layer), site.experts,
                        size.rank * (site.rows + site.cols)});
  return matrices;
}

TrainingWork::TrainingWork(const Config& config, std::span<const WeightSpec> table,
                           const TrainedParts& parts,
                           const std::optional<AdaptedMatrices>& adapted) {
  const bool above_trunk = !adapted && parts.only_mtp();
  std::int64_t lowest = above_trunk ? config.layers : 0, modules = 0;
  if (adapted) {
    lowest = std::numeric_limits<std::int64_t>::max();
    for (const AdaptedMatrix& matrix : *adapted) {
      lowest = std::min(lowest, matrix.layer);
      add_adapter(matrix, config);
    }
  }
  for (const WeightSpec& weight : table) {
    const bool trained = !adapted && is_trained(weight, parts);
    if (trained) trained_ += weight.elements();
    if (weight.part == Part::kVision) continue;
    if (weight.part == Part::kMtp) modules = std::max(modules, weight.layer + 1);
    if (weight.shape.size() < 2 || weight.kind == Kind::kEmbedding) continue;
    // Of each expert's weights a row meets as many as it picks.
    if (weight.expert >= config.experts_per_token) continue;
    const bool above = weight.layer < 0 || layer_of(weight, config) >= lowest;
    add_linear(weight, trained, above);
  }
  add_pairs(config, modules, lowest);
  if (!adapted && parts.indexer) add_indexers(config, modules, parts);
  // The head is computed once for next tokens, and once for each module.
  const auto heads = static_cast<double>(1 + modules);
  scored_row_.forward *= heads;
  scored_row_.backward *= above_trunk ? heads - 1 : heads;
}

// `passes`: a derivative goes through it.
void TrainingWork::add_linear(const WeightSpec& weight, bool trained, bool passes) {
  const double flops = 2 * static_cast<double>(weight.elements());
  TrainingFlops& to = weight.kind == Kind::kHead ? scored_row_ : row_;
  to.forward += flops;
  if (weight.kind == Kind::kIndexer || !passes) return;
  to.backward += trained ? 2 * flops : flops;
  if (is_repeated(weight)) to.repeated += flops;
}

void TrainingWork::add_adapter(const AdaptedMatrix& matrix, const Config& config) {
  trained_ += matrix.experts * matrix.numbers;
  const std::int64_t met = matrix.experts == 1 ? 1 : config.experts_per_token;
  row_.forward += 2 * static_cast<double>(met * matrix.numbers);
  row_.backward += 4 * static_cast<double>(met * matrix.numbers);
}

void TrainingWork::add_pairs(const Config& config, std::int64_t modules, std::int64_t lowest) {
  pair_ = 4.0 * static_cast<double>(config.heads * config.head_dim);
  index_pair_ = 2.0 * static_cast<double>(config.index_heads * config.index_dim);
  block_tokens_ = config.block_tokens;
  blocks_ = config.selection.topk;
  for (std::int64_t l = 0; l < config.layers + modules; ++l) {
    const bool sparse = l >= config.layers || config.sparse_layers[static_cast<std::size_t>(l)];
    Attention& attention = sparse ? sparse_ : dense_;
    ++attention.layers;
    attention.backward_layers += l >= lowest;
  }
}

// The divergence takes, of all that a query sees, attention's scores and the indexer's, and the
// derivatives by the indexer's queries and keys; these are projected once more before, and their
// weights' derivatives follow.
void TrainingWork::add_indexers(const Config& config, std::int64_t modules,
                                const TrainedParts& parts) {
  std::int64_t taught = 0;
  for (std::int64_t l = 0; l < config.layers + modules; ++l) {
    const bool sparse = l >= config.layers || config.sparse_layers[static_cast<std::size_t>(l)];
    taught += sparse && (l < config.layers ? parts.text : parts.mtp);
  }
  const auto layers = static_cast<double>(taught);
  taught_pair_ = layers * (pair_ / 2 + 3 * index_pair_);
  const auto projected =
      static_cast<double>(config.hidden * config.index_dim * (config.index_heads + 1));
  row_.backward += layers * 2 * 2 * projected;
}

TrainingFlops TrainingWork::flops(std::span<const std::int64_t> lengths, std::int64_t scored,
                                  bool repeats) const {
  double rows = 0, dense = 0, sparse = 0, ranked = 0;
  for (const std::int64_t length : lengths) {
    const double all = pairs_of(length, length, 1);
    rows += static_cast<double>(length);
    dense += all;
    sparse += pairs_of(length, block_tokens_, blocks_);
    if (length > block_tokens_ * blocks_) ranked += all;
  }
  const auto attended = [&](std::int64_t of_dense, std::int64_t of_sparse) {
    return pair_ *
           (static_cast<double>(of_dense) * dense + static_cast<double>(of_sparse) * sparse);
  };
  const double labels = static_cast<double>(scored);
  const double again = attended(dense_.backward_layers, sparse_.backward_layers);
  TrainingFlops flops;
  flops.forward = rows * row_.forward + labels * scored_row_.forward +
                  attended(dense_.layers, sparse_.layers) +
                  static_cast<double>(sparse_.layers) * index_pair_ * ranked;
  // Scores, and the derivatives by scores, q, k and v: five products where forward has two.
  flops.backward =
      rows * row_.backward + labels * scored_row_.backward + 2.5 * again + taught_pair_ * dense;
  if (repeats) flops.repeated = rows * row_.repeated + again;
  return flops;
}

}  // namespace m3
