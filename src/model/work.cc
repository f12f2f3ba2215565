#include "model/work.h"

#include <algorithm>

namespace m3 {
namespace {

// Bytes and multiply-adds of some linears; a row costs `flops`.
struct Linears {
  std::int64_t bytes = 0;
  std::int64_t flops = 0;

  Linears& operator+=(const Matrix& w) {
    bytes += w.bytes();
    flops += 2 * w.rows * w.cols;
    return *this;
  }
  Linears& operator+=(const Linear& linear) { return *this += linear.weight; }
};

Linears of_attention(const LayerWeights& layer) {
  Linears sum;
  const AttentionWeights& a = layer.attention;
  for (const Linear* linear : {&a.q, &a.k, &a.v, &a.o}) sum += *linear;
  if (layer.indexer) (sum += layer.indexer->q) += layer.indexer->k;
  return sum;
}

Linears of_mlp(const MlpWeights& mlp) {
  Linears sum;
  for (const Linear* linear : {&mlp.gate, &mlp.up, &mlp.down}) sum += *linear;
  return sum;
}

// `picked` experts are read by all rows together; each row multiplies with `per_row` of them.
Linears of_moe(const MoeWeights& moe, std::int64_t picked, std::int64_t per_row) {
  Linears sum = moe.shared ? of_mlp(*moe.shared) : Linears();
  if (moe.gate.empty()) return sum;
  Linears expert;
  ((expert += moe.gate[0]) += moe.up[0]) += moe.down[0];
  sum.bytes += picked * expert.bytes;
  sum.flops += per_row * expert.flops;
  return sum;
}

// Tokens that a row at `slot` attends to in a sparse layer: whole blocks but for its own.
std::int64_t selected_tokens(const Config& c, std::int64_t slot) {
  const std::int64_t visible = slot / c.block_tokens + 1;
  if (visible <= c.selection.topk) return slot + 1;
  return (c.selection.topk - 1) * c.block_tokens + slot % c.block_tokens + 1;
}

// The row at `slot` of a sequence; with `reads`, also the bytes of what it sees.
void add_cache_work(const Config& c, bool sparse, std::int64_t slot, bool reads,
                    const CacheFormat& cache, Work& work) {
  const std::int64_t tokens = sparse ? selected_tokens(c, slot) : slot + 1;
  work[Stage::kAttention] +=
      {reads ? 2 * tokens * c.kv_heads * c.head_dim * dtype_size(cache.kv) : 0,
       4 * tokens * c.heads * c.head_dim};
  // Where all blocks are selected, nothing is ranked.
  if (!sparse || tokens == slot + 1) return;
  work[Stage::kIndex] += {reads ? (slot + 1) * c.index_dim * dtype_size(cache.index) : 0,
                          2 * (slot + 1) * c.index_heads * c.index_dim};
}

}  // namespace

StageWork& StageWork::operator+=(const StageWork& other) {
  bytes += other.bytes;
  flops += other.flops;
  return *this;
}

Work& Work::operator+=(const Work& other) {
  for (std::size_t i = 0; i < values.size(); ++i) values[i] += other.values[i];
  return *this;
}

std::int64_t Work::bytes() const {
  std::int64_t sum = 0;
  for (const StageWork& stage : values) sum += stage.bytes;
  return sum;
}

std::int64_t Work::flops() const {
  std::int64_t sum = 0;
  for (const StageWork& stage : values) sum += stage.flops;
  return sum;
}

Work count_work(const Config& c, const Weights& weights, const Batch& batch,
                const std::vector<std::int64_t>& distinct_experts, const CacheFormat& cache) {
  Work work;
  const auto add = [&](Stage stage, const Linears& linears, std::int64_t rows) {
    if (rows > 0) work[stage] += {linears.bytes, rows * linears.flops};
  };
  const auto outputs = static_cast<std::int64_t>(batch.outputs.size());
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const LayerWeights& layer = weights.layers[static_cast<std::size_t>(i)];
    add(Stage::kWeights, of_attention(layer), batch.rows());
    const std::int64_t rows = i == c.layers - 1 ? outputs : batch.rows();
    if (layer.mlp) add(Stage::kWeights, of_mlp(*layer.mlp), rows);
    if (layer.moe) {
      const std::int64_t picked = distinct_experts[static_cast<std::size_t>(i)];
      add(Stage::kWeights, of_moe(*layer.moe, picked, c.experts_per_token), rows);
      add(Stage::kRouter, Linears() += layer.moe->router, rows);
    }
    for (std::size_t row = 0; row < batch.slots.size(); ++row) {
      const bool last =
          row + 1 == batch.slots.size() || batch.sequences[row + 1] != batch.sequences[row];
      add_cache_work(c, layer.indexer.has_value(), batch.slots[row], last, cache, work);
    }
  }
  add(Stage::kHead, Linears() += weights.head, outputs);
  const std::int64_t row_bytes = weights.embedding.bytes() / std::max<std::int64_t>(1, c.vocab);
  work[Stage::kRest].bytes += batch.rows() * row_bytes;
  return work;
}

Work count_vision_work(const Config& config, std::span<const MediaGrid> grids) {
  const VisionConfig& v = *config.vision;
  const std::int64_t block = v.spatial_merge * v.spatial_merge;
  std::int64_t rows = 0, pairs = 0;  // pairs of rows that attend to each other
  for (const MediaGrid& grid : grids) {
    rows += grid.rows();
    for (std::int64_t t = 0; t < grid.t; t += v.segment_frames) {
      const std::int64_t segment = std::min(v.segment_frames, grid.t - t) * grid.h * grid.w;
      pairs += segment * segment;
    }
  }
  const std::int64_t layer = 4 * v.hidden * v.hidden + 2 * v.hidden * v.inner;
  const std::int64_t each_row = pixel_row_size(v) * v.hidden + v.layers * layer +
                                v.projector_hidden * (v.hidden + config.hidden);
  const std::int64_t each_token = v.projector_hidden * (block * config.hidden + config.hidden);
  Work work;
  work[Stage::kWeights].flops = 2 * (rows * each_row + rows / block * each_token);
  work[Stage::kAttention].flops = 4 * pairs * v.hidden * v.layers;
  return work;
}

}  // namespace m3
