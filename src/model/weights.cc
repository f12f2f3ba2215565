#include "model/weights.h"

#include <algorithm>

#include "model/packed_weights.h"
#include "model/weight_match.h"
#include "model/weight_table.h"
#include "tensor/float_matrix.h"

namespace m3 {
namespace {

constexpr std::int64_t kAlignment = 64;

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

bool becomes_float32(const WeightSpec& spec) {
  return std::holds_alternative<Tensor*>(spec.place) ||
         std::holds_alternative<RouterPlace>(spec.place);
}

// Hands out pieces of one buffer that is as large as all small weights together.
class Arena {
 public:
  explicit Arena(const std::vector<FoundWeight>& weights) {
    std::int64_t bytes = 0;
    for (const FoundWeight& found : weights)
      if (becomes_float32(*found.spec)) bytes += aligned(found.spec->elements() * 4);
    buffer_ = Buffer(bytes);
  }

  // The weight as float32, in the shape of the table.
  Tensor convert(const FoundWeight& found) {
    const Matrix& w = found.matrix;
    auto* out = reinterpret_cast<float*>(buffer_.data() + used_);
    used_ += aligned(w.rows * w.cols * 4);
    decode_all(w, out);
    return {out, DType::kF32, std::span<const std::int64_t>(found.spec->shape)};
  }

  Buffer release() { return std::move(buffer_); }

 private:
  Buffer buffer_;
  std::int64_t used_ = 0;
};

// Puts a weight where the table says.
struct Placer {
  const FoundWeight& found;
  Arena& arena;

  void operator()(std::monostate) const {}
  void operator()(Tensor* place) const { *place = arena.convert(found); }
  void operator()(RouterPlace place) const { *place.matrix = f32_matrix(arena.convert(found)); }
  void operator()(Matrix* place) const { *place = found.matrix; }
  void operator()(Linear* place) const { place->weight = found.matrix; }
};

// Reads all scales, in parallel over weights. Of several errors, tells the first in table order, so
// that the message does not depend on the threads.
Status read_numbers(std::vector<FoundWeight>& weights, const Checkpoint& checkpoint,
                    const Progress& progress, ThreadPool* pool) {
  constexpr std::int64_t kBetweenReports = 512;
  std::vector<Status> results(weights.size());
  const auto count = static_cast<std::int64_t>(weights.size());
  for (std::int64_t first = 0; first < count; first += kBetweenReports) {
    const std::int64_t part = std::min(kBetweenReports, count - first);
    const auto check = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = first + begin; i < first + end; ++i) {
        FoundWeight& weight = weights[static_cast<std::size_t>(i)];
        results[static_cast<std::size_t>(i)] = m3::read_numbers(weight);
        if (weight.matrix.scales) checkpoint.release(weight.matrix.scales);
      }
    };
    if (pool != nullptr)
      pool->parallel_for(part, 1, check);
    else
      check(0, part);
    if (progress) progress(first + part, count);
  }
  for (Status& status : results)
    if (!status) return std::move(status);
  return {};
}

// Finds, checks and places the weights of a table.
Status fill(const std::vector<WeightSpec>& table, const Config& config,
            const Checkpoint& checkpoint, const Progress& progress, ThreadPool* pool,
            Weights& weights, PackableWeights& linears) {
  M3_TRY(auto matched, match_weights(table, config, checkpoint));
  M3_TRY_STATUS(read_numbers(matched.found, checkpoint, progress, pool));
  Arena arena(matched.found);
  for (const FoundWeight& found : matched.found) {
    std::visit(Placer{found, arena}, found.spec->place);
    if (const auto* linear = std::get_if<Linear*>(&found.spec->place))
      linears.push_back({found.spec->name, &(*linear)->weight});
  }
  weights.converted.push_back(arena.release());
  weights.warnings.insert(weights.warnings.end(), matched.warnings.begin(), matched.warnings.end());
  return {};
}

LayerWeights empty_layer(const Config& c, bool sparse, bool moe) {
  LayerWeights layer;
  if (sparse) layer.indexer.emplace();
  if (!moe) {
    layer.mlp.emplace();
    return layer;
  }
  MoeWeights& experts = layer.moe.emplace();
  const auto count = static_cast<std::size_t>(c.experts);
  experts.gate.resize(count);
  experts.up.resize(count);
  experts.down.resize(count);
  if (c.shared_experts > 0) experts.shared.emplace();
  return layer;
}

// Spec: text-model §5.1.
void note_mtp(const Config& config, const Checkpoint& checkpoint, std::int64_t found,
              Weights& weights) {
  if (found == config.mtp_modules) return;
  if (found == 0)
    weights.warnings.push_back(fmt::format(
        "{}: the config declares {} MTP modules, but the files hold none, as those of the released "
        "models: all but drafting with MTP works without",
        checkpoint.directory(), config.mtp_modules));
  else
    weights.warnings.push_back(fmt::format(
        "{}: the config declares {} MTP modules, but the files hold {}, and the files are followed",
        checkpoint.directory(), config.mtp_modules, found));
}

// Makes room for the modules. Errors: there are none.
Status expect_mtp(const Config& config, const Checkpoint& checkpoint, std::int64_t found,
                  Weights& weights) {
  if (found == 0)
    return fail(
        "{} holds no MTP module, of which its config declares {}: expected tensors named "
        "language_model.model.mtp.layers.0.… or model.mtp.layers.0.…; give a directory that holds "
        "them, or go without MTP",
        checkpoint.directory(), config.mtp_modules);
  M3_TRY_STATUS(check_mtp(config, found));
  for (std::int64_t module = 0; module < found; ++module)
    weights.mtp.emplace_back().layer = empty_layer(config, /*sparse=*/true, /*moe=*/true);
  return {};
}

Status load_standalone(const StandaloneMtp& mtp, const Progress& progress, ThreadPool* pool,
                       Weights& weights, PackableWeights& linears) {
  M3_TRY(const std::int64_t modules, count_mtp_modules(*mtp.checkpoint));
  M3_TRY_STATUS(expect_mtp(mtp.config, *mtp.checkpoint, modules, weights));
  M3_TRY(const auto table, mtp_weight_table(mtp.config, modules, &weights));
  M3_TRY_STATUS(fill(table, mtp.config, *mtp.checkpoint, progress, pool, weights, linears));
  note_mtp(mtp.config, *mtp.checkpoint, modules, weights);
  weights.mtp_checkpoint = mtp.checkpoint;
  return {};
}

}  // namespace

Weights empty_weights(const Config& config) {
  Weights weights;
  for (std::size_t l = 0; l < config.moe_layers.size(); ++l)
    weights.layers.push_back(empty_layer(config, config.sparse_layers[l], config.moe_layers[l]));
  if (config.vision)
    weights.vision.emplace().layers.resize(static_cast<std::size_t>(config.vision->layers));
  return weights;
}

Status load_stored(const Config& config, std::shared_ptr<const Checkpoint> checkpoint,
                   const Progress& progress, ThreadPool* pool, const LoadOptions& options,
                   Weights& weights, Linears& linears) {
  weights = empty_weights(config);
  weights.checkpoint = checkpoint;
  M3_TRY(weights.mtp_modules, count_mtp_modules(*checkpoint));
  const bool own_mtp = options.mtp && !options.standalone_mtp;
  if (own_mtp) M3_TRY_STATUS(expect_mtp(config, *checkpoint, weights.mtp_modules, weights));
  if (!options.vision) weights.vision.reset();
  M3_TRY(auto table, weight_table(config, weights.mtp_modules, &weights));
  if (!options.vision) leave_out_vision(table, *checkpoint);
  M3_TRY_STATUS(fill(table, config, *checkpoint, progress, pool, weights, linears.own));
  if (options.standalone_mtp)
    return load_standalone(*options.standalone_mtp, progress, pool, weights, linears.standalone);
  note_mtp(config, *checkpoint, weights.mtp_modules, weights);
  return {};
}

Result<Weights> load_weights(const Config& config, std::shared_ptr<const Checkpoint> checkpoint,
                             const Progress& progress, ThreadPool* pool,
                             const LoadOptions& options) {
  Weights weights;
  Linears linears;
  M3_TRY_STATUS(
      load_stored(config, std::move(checkpoint), progress, pool, options, weights, linears));
  if (options.backend != nullptr)
    M3_TRY_STATUS(provide_packed(config, linears, pool, options, weights));
  return weights;
}

}  // namespace m3
