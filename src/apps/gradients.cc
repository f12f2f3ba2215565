// `m3 gradients`: the derivatives of a batch's loss as numbers, for comparing.
#include <CLI/CLI.hpp>
#include <algorithm>

#include "apps/commands.h"
#include "apps/model_options.h"
#include "apps/option_checks.h"
#include "apps/pixel_file.h"
#include "apps/progress_bar.h"
#include "apps/train_options.h"
#include "apps/training_file.h"
#include "base/machine.h"
#include "checkpoint/safetensors.h"
#include "train/differentiator.h"
#include "train/packs.h"

namespace m3 {
namespace {

struct GradientOptions {
  ModelOptions model;
  std::string batch;
  std::string rows;
  double mtp_scale = 0;
  std::int64_t pack = 0;
  std::vector<std::string> train = {"text"};
  bool recompute = false;
  std::string out;
};

// The loss and its parts, each a tensor (goldens: "gradients").
class LossTensors {
 public:
  LossTensors(const LossSums& sums, std::int64_t scored, double mtp_scale) {
    const auto share = [&](double sum) {
      return static_cast<float>(sum / static_cast<double>(std::max<std::int64_t>(1, scored)));
    };
    main_ = share(sums.main);
    for (const double sum : sums.mtp) mtp_.push_back(share(sum));
    total_ = share(sums.total(mtp_scale));
  }
  std::vector<NamedTensor> tensors() {
    std::vector<NamedTensor> named = {{"loss", Tensor(&total_, DType::kF32, {1})}};
    if (mtp_.empty()) return named;
    named.push_back({"loss.main", Tensor(&main_, DType::kF32, {1})});
    named.push_back({"loss.mtp", Tensor(mtp_.data(), DType::kF32, {std::ssize(mtp_)})});
    return named;
  }

 private:
  float total_ = 0, main_ = 0;
  std::vector<float> mtp_;
};

Result<TrainedParts> trained_parts(const GradientOptions& o) {
  M3_TRY(TrainedParts parts, parts_named(o.train));
  if (parts.mtp)
    return fail("--train mtp: here --mtp-scale says whether the MTP modules are trained");
  parts.mtp = o.mtp_scale > 0;
  return parts;
}

// Adds the pictures of a file to the one sequence that has their placeholders. Their pixels stay in
// `file`.
Status add_pixels(const std::string& path, const Model& model,
                  std::vector<TrainingSequence>& sequences, PixelFile& file) {
  for (const TrainingSequence& sequence : sequences)
    if (path.empty()) M3_TRY_STATUS(expect_no_placeholder(sequence.ids, model.config()));
  if (path.empty()) return {};
  if (sequences.size() > 1)
    return fail("--rows goes with one sequence, the batch has {}", sequences.size());
  M3_TRY_STATUS(expect_vision(model));
  TrainingSequence& sequence = sequences[0];
  M3_TRY(file, read_pixel_file(path, *model.config().vision));
  const std::vector<PixelItem> items = pixel_items(file, sequence.ids, model.config());
  const auto encoded = MediaEncoder(model).encode_all(items, {});
  for (std::size_t i = 0; i < items.size(); ++i)
    sequence.media.push_back({items[i].pixels, items[i].grid, (*encoded)[i]});
  M3_TRY(sequence.splices, SplicePlan::create(sequence.ids, *encoded, model.config()));
  return {};
}

Status run_gradients(const GradientOptions& o) {
  M3_TRY(const TrainedParts trained, trained_parts(o));
  ModelOptions options = o.model;
  options.mtp = trained.mtp;
  M3_TRY(const auto loaded, load_model(options));
  M3_TRY(auto sequences, read_training_batch(o.batch, loaded->config()));
  PixelFile pixels;
  M3_TRY_STATUS(add_pixels(o.rows, *loaded->model, sequences, pixels));
  M3_TRY(const auto gradients, WeightGradients::create(*loaded->model, trained));

  const auto parts = packs_of(sequences, o.pack);
  std::int64_t rows = 0;
  for (const auto& part : parts) rows = std::max(rows, rows_of(part));
  const std::int64_t scored = scored_labels(sequences);
  M3_TRY(auto differentiator,
         Differentiator::create(*loaded->model, gradients, rows, static_cast<float>(o.mtp_scale),
                                o.recompute ? Keep::kInputs : Keep::kAll));
  // These buffers are mapped but not yet backed by memory.
  const std::int64_t bytes = gradients.bytes() + differentiator.bytes();
  if (bytes > available_memory())
    return fail(
        "{} for the derivatives by all weights and {} for what is kept of {} rows: the "
        "system has {} left",
        quantity(static_cast<double>(gradients.bytes()), "B"),
        quantity(static_cast<double>(differentiator.bytes()), "B"), rows,
        quantity(static_cast<double>(available_memory()), "B"));
  ProgressBar bar("differentiating", "sequences");
  const auto progress = bar.callback();
  LossSums sums;
  std::int64_t done = 0;
  for (const auto& part : parts) {
    M3_TRY(const LossSums more, differentiator.add(part, scored));
    sums.add(more);
    done += std::ssize(part);
    progress(done, std::ssize(sequences));
  }

  LossTensors losses(sums, scored, o.mtp_scale);
  std::vector<NamedTensor> tensors = losses.tensors();
  for (std::size_t i = 0; i < gradients.weights().size(); ++i)
    tensors.push_back({"grad." + gradients.weights()[i].name, gradients.tensors()[i]});
  return write_safetensors(o.out, tensors);
}

}  // namespace

void add_gradients(CLI::App& app, Run& run) {
  auto o = std::make_shared<GradientOptions>();
  CLI::App* command = app.add_subcommand(
      "gradients", "Write the derivatives of a batch's loss by every trained weight to a file");
  add_model_options(*command, o->model);
  command
      ->add_option(
          "--batch", o->batch,
          "JSON: {\"sequences\": [{\"ids\": [...], \"labels\": [...]}]}, each perhaps with "
          "\"position_ids\" and an \"attention_mask\" (docs/training-data.md); a label belongs "
          "to the row that predicts it, -100 is not scored")
      ->required();
  command->add_option("--rows", o->rows,
                      "safetensors file with the pixel rows of a batch of one sequence");
  command->add_option("--mtp-scale", o->mtp_scale, "weight of the MTP modules' losses; 0: none")
      ->check(between(0, 1e6))
      ->capture_default_str();
  command->add_option("--pack", o->pack, "rows of short sequences that are computed together")
      ->check(between(1, 1 << 24));
  command->add_option("--train", o->train, "parts of the model: text, vision")
      ->delimiter(',')
      ->capture_default_str();
  add_recompute_option(*command, o->recompute);
  command->add_option("--out", o->out, "safetensors file to write")->required();
  command->callback([o, &run] { run = [o] { return run_gradients(*o); }; });
}

}  // namespace m3
