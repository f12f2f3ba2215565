#include "train/training_plan.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/file.h"
#include "model/cache.h"
#include "model/quantisation.h"
#include "model/weight_match.h"
#include "train/differentiator.h"

namespace m3 {
namespace {

// Of the matrix peak, where a machine's own is not known: what prefill reaches on those that we
// have measured.
constexpr double kUsualShare = 0.6;

// What a learnt number moves in a step: AdamW reads value, gradient and moments and writes all but
// the gradient, whose norm is read and which is cleared.
constexpr std::int64_t kUpdateBytes = 7 * 4 + 2 * 4;

struct StoredWeight {
  const WeightSpec* spec = nullptr;
  std::int64_t bytes = 0;
};

// As the files have them, or else as the config says.
Result<std::vector<StoredWeight>> stored_weights(const Config& config,
                                                 std::vector<WeightSpec>& table,
                                                 const Checkpoint* checkpoint, bool vision) {
  std::vector<StoredWeight> stored;
  if (checkpoint != nullptr) {
    if (!vision) leave_out_vision(table, *checkpoint);
    M3_TRY(const MatchedWeights weights, match_weights(table, config, *checkpoint));
    for (const FoundWeight& found : weights.found)
      stored.push_back({found.spec, found.matrix.bytes()});
    return stored;
  }
  for (const WeightSpec& spec : table)
    stored.push_back({&spec, stored_bytes(said_codec(config.quantisation, spec), spec)});
  return stored;
}

// Vectors and the router are converted to float32.
std::int64_t loaded_bytes(const StoredWeight& weight) {
  const bool is_float = weight.spec->shape.size() == 1 || weight.spec->kind == Kind::kRouter;
  return is_float ? weight.spec->elements() * 4 : weight.bytes;
}

bool is_loaded(const WeightSpec& weight, const PlannedTraining& training) {
  if (weight.part == Part::kVision) return training.vision;
  return weight.part == Part::kText || (!training.adapted && training.parts.mtp);
}

TrainingMemory count_memory(const Config& config, std::span<const StoredWeight> weights,
                            const PlannedTraining& training, std::int64_t modules,
                            std::int64_t trained) {
  TrainingMemory memory;
  for (const StoredWeight& weight : weights) {
    const bool replaced = !training.adapted && is_trained(*weight.spec, training.parts);
    if (is_loaded(*weight.spec, training) && !replaced) memory.weights += loaded_bytes(weight);
  }
  const std::int64_t masters = training.adapted ? 4 : MasterWeights::bytes_each(training.precision);
  memory.trained = trained * (masters + 4 + 2 * dtype_size(training.moments));
  const bool indexer = !training.adapted && training.parts.indexer;
  memory.activations =
      Differentiator::bytes_for(config, modules, training.rows, training.keep, indexer);
  const std::int64_t pages = training.rows / config.block_tokens + std::ssize(training.lengths);
  memory.cache = pages * page_bytes(config, {DType::kBF16, DType::kBF16}, modules).total();
  memory.inputs = training.step_bytes;
  return memory;
}

}  // namespace

Result<TrainingPlan> plan_training(const Config& config, const Checkpoint* checkpoint,
                                   const PlannedTraining& training) {
  const TrainedParts parts = training.adapted ? TrainedParts{} : training.parts;
  std::int64_t held = 0;
  if (checkpoint != nullptr) {
    M3_TRY(held, count_mtp_modules(*checkpoint));
  } else if (parts.mtp) {
    return fail(
        "MTP modules cannot be planned from a config.json alone: it declares {}, and only the "
        "weights' files say how many there are",
        config.mtp_modules);
  }
  M3_TRY_STATUS(expect_parts(parts, config, held, config.vision.has_value() && training.vision));
  const std::int64_t modules = parts.mtp ? held : 0;
  M3_TRY(auto all, weight_table(config, held));
  M3_TRY(const std::vector<StoredWeight> weights,
         stored_weights(config, all, checkpoint, training.vision));
  M3_TRY(const auto table, weight_table(config, modules));
  const TrainingWork work(config, table, parts, training.adapted);

  TrainingPlan plan;
  const bool repeats = training.keep == Keep::kInputs;
  plan.memory = count_memory(config, weights, training, modules, work.trained());
  plan.trained = work.trained();
  plan.checkpoint = (4 + 2 * dtype_size(training.moments)) * plan.trained;
  plan.tokens = std::accumulate(training.lengths.begin(), training.lengths.end(), std::int64_t{0});
  plan.passes = (plan.tokens + training.rows - 1) / std::max<std::int64_t>(1, training.rows);
  plan.flops = work.flops(training.lengths, training.scored, repeats);
  // Weights are read in both directions; activations are written, and read by what follows and by
  // the backward pass; gradients are read and written.
  const std::int64_t stored = plan.memory.weights + (training.adapted ? 0 : 2 * plan.trained);
  plan.traffic = plan.passes * ((repeats ? 3 : 2) * stored + 3 * plan.memory.activations +
                                2 * 4 * plan.trained) +
                 kUpdateBytes * plan.trained;
  return plan;
}

Result<MeasuredMachine> read_machine(const std::string& path) {
  M3_TRY(const std::string text, read_text_file(path));
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto number = [](const nlohmann::json& object, const char* key) {
    const bool is_there = object.is_object() && object.contains(key) && object[key].is_number();
    return is_there ? object[key].get<double>() : 0.0;
  };
  MeasuredMachine machine;
  if (json.is_object() && json.contains("machine")) {
    machine.read_gb_per_s = number(json["machine"], "read_gbps");
    machine.matrix_tflop_per_s = number(json["machine"], "bf16_tflops");
  }
  if (!(machine.read_gb_per_s > 0 && machine.matrix_tflop_per_s > 0))
    return fail(
        "{}: expected what m3 bench --json writes, with machine.read_gbps and "
        "machine.bf16_tflops",
        path);
  std::int64_t longest = 0;
  for (const auto& row : json.value("rows", nlohmann::json::array())) {
    if (!row.is_object() || !row.contains("test") || !row["test"].is_string()) continue;
    const auto& test = row["test"].get_ref<const std::string&>();
    if (!test.starts_with("pp")) continue;
    std::int64_t tokens = 0;
    std::from_chars(test.data() + 2, test.data() + test.size(), tokens);
    if (tokens <= longest) continue;
    longest = tokens;
    machine.prefill_share = number(row, "tflops") / machine.matrix_tflop_per_s;
  }
  return machine;
}

double seconds_of(const TrainingPlan& plan, const MeasuredMachine& machine) {
  const double share = machine.prefill_share > 0 ? machine.prefill_share : kUsualShare;
  return (plan.flops.useful() + plan.flops.repeated) / (1e12 * share * machine.matrix_tflop_per_s) +
         static_cast<double>(plan.traffic) / (1e9 * machine.read_gb_per_s);
}

}  // namespace m3
