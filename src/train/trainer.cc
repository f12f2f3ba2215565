#include "train/trainer.h"

#include <cmath>
#include <iterator>

#include "base/machine.h"
#include "base/random.h"
#include "train/packs.h"

namespace m3 {
namespace {

// As torch.nn.utils.clip_grad_norm_ has it: a norm a little over the bound ends a little under it.
constexpr double kClipEps = 1e-6;

void scale_by(float factor, const Tensor& x) {
  for (std::int64_t i = 0; i < x.elements(); ++i) x.as<float>()[i] *= factor;
}

double gigabytes(std::int64_t bytes) {
  return static_cast<double>(bytes) * 1e-9;
}

}  // namespace

Trainer::Trainer(const TrainerOptions& options, ThreadPool& pool, WeightGradients gradients)
    : options_(options), pool_(&pool), gradients_(std::move(gradients)) {}

Result<std::unique_ptr<Trainer>> Trainer::create(Model& model, const TrainerOptions& options,
                                                 ThreadPool& pool, Lora* adapter) {
  M3_TRY(WeightGradients gradients, adapter != nullptr
                                        ? WeightGradients::create(*adapter)
                                        : WeightGradients::create(model, options.parts));
  std::unique_ptr<Trainer> trainer(new Trainer(options, pool, std::move(gradients)));
  M3_TRY(trainer->adam_, AdamW::create(trainer->gradients_.weights(), options.adam));
  M3_TRY(Differentiator differentiator,
         Differentiator::create(model, trainer->gradients_, options.rows, options.mtp_scale,
                                options.keep,
                                {.balance = options.balance, .indexer = options.parts.indexer}));
  trainer->differentiator_ = std::make_unique<Differentiator>(std::move(differentiator));
  trainer->adapter_ = adapter;
  M3_TRY_STATUS(trainer->expect_memory());
  if (adapter != nullptr) {
    for (const LoraModule& module : adapter->modules())
      trainer->values_.insert(trainer->values_.end(), {module.a, module.b});
  } else {
    M3_TRY(trainer->masters_, MasterWeights::create(trainer->gradients_.weights(),
                                                    options.precision, model.backend()));
    trainer->masters_.publish(pool);
    const std::span<const Tensor> values = trainer->masters_.tensors();
    trainer->values_.assign(values.begin(), values.end());
  }
  const auto trained = trainer->gradients_.weights();
  trainer->weights_.assign(trained.begin(), trained.end());
  trainer->group_gradients();
  if (options.bias_rate > 0) M3_TRY_STATUS(trainer->add_biases(model));
  return trainer;
}

// The buffers that there are already are mapped, but not yet backed by memory. An adapter's values
// are, so they are not counted.
Status Trainer::expect_memory() const {
  const std::int64_t each =
      4 + 2 * dtype_size(options_.adam.moments) +
      (adapter_ != nullptr ? 0 : MasterWeights::bytes_each(options_.precision));
  const std::int64_t kept = differentiator_->bytes(), step = options_.step_bytes;
  const std::int64_t bytes = gradients_.bytes() / 4 * each + kept + step;
  if (bytes <= available_memory()) return {};
  return fail(
      "training needs {:.1f} GB, {} bytes for each trained number and {:.1f} GB for what is kept "
      "of {} rows{}{}: the system has {:.1f} GB left",
      gigabytes(bytes), each, gigabytes(kept), options_.rows,
      options_.keep == Keep::kAll ? " (--recompute keeps less)" : "",
      step == 0 ? "" : fmt::format(", {:.1f} GB for masks and pictures", gigabytes(step)),
      gigabytes(available_memory()));
}

Status Trainer::add_biases(Model& model) {
  M3_TRY(biases_, RouterBiases::create(model, options_.parts));
  weights_.insert(weights_.end(), biases_.weights().begin(), biases_.weights().end());
  values_.insert(values_.end(), biases_.values().begin(), biases_.values().end());
  return {};
}

void Trainer::group_gradients() {
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    Group& group = is_of_indexer(weights_[i]) && adapter_ == nullptr ? indexer_ : main_;
    group.gradients.push_back(gradients_.tensors()[i]);
    group.names.push_back(weights_[i].name);
  }
}

Result<StepReport> Trainer::step(std::span<const TrainingSequence> sequences) {
  StepReport report{.rate = options_.schedule.at(steps_), .scored = scored_labels(sequences)};
  ++steps_;
  if (report.scored == 0) {
    report.skipped = "no label is scored";
    return report;
  }
  gradients_.clear();
  differentiator_->begin_step(rows_of(sequences));
  LossSums sums;
  const bool drops = adapter_ != nullptr && options_.dropout > 0;
  std::uint64_t packs = 0;
  for (const auto& pack : packs_of(sequences, options_.rows)) {
    if (drops) adapter_->set_dropout(static_cast<float>(options_.dropout), dropout_key(packs++));
    M3_TRY(const LossSums more, differentiator_->add(pack, report.scored));
    sums.add(more);
  }
  if (drops) adapter_->set_dropout(0, 0);
  report.loss = sums.total(options_.mtp_scale) / static_cast<double>(report.scored);
  report.not_finite = sums.not_finite;
  measure(sums, report);
  const GradientNorm norm = gradient_norm(main_.gradients, *pool_);
  const GradientNorm indexer_norm = gradient_norm(indexer_.gradients, *pool_);
  report.gradient_norm = norm.norm;
  report.skipped = why_skip(report, norm, main_);
  if (report.skipped.empty()) report.skipped = why_skip(report, indexer_norm, indexer_);
  if (!report.skipped.empty()) return report;
  const double scale = clipping(norm);
  for (const Tensor& gradient : indexer_.gradients)
    scale_by(static_cast<float>(clipping(indexer_norm) / scale), gradient);
  adam_.step(std::span(values_).first(gradients_.tensors().size()), gradients_.tensors(),
             report.rate, scale, *pool_);
  if (options_.bias_rate > 0) biases_.follow(differentiator_->side().loads, options_.bias_rate);
  masters_.publish(*pool_);
  return report;
}

double Trainer::clipping(const GradientNorm& norm) const {
  const bool clips = options_.clip > 0 && norm.norm > options_.clip;
  return clips ? options_.clip / (norm.norm + kClipEps) : 1;
}

void Trainer::measure(const LossSums& sums, StepReport& report) const {
  const SideSums& side = differentiator_->side();
  const auto add = [&](const std::string& name, double sum, double count) {
    if (count > 0) report.measures.push_back({name, sum / count});
  };
  if (options_.load_measures != LoadMeasures::kNone)
    report.measures =
        load_measures(side.loads.layers(), options_.load_measures == LoadMeasures::kByLayer);
  std::ranges::copy(sums.measures(report.scored), std::back_inserter(report.measures));
  add("moe/aux_loss_mean", side.balance, side.balanced_rows);
  add("indexer_kl", side.divergence, side.divergence_count);
  add("indexer_overlap", side.overlap, side.choice_count);
  add("indexer_mass", side.mass, side.choice_count);
}

Result<LossSums> Trainer::losses(std::span<const TrainingSequence> sequences) {
  LossSums sums;
  for (const auto& pack : packs_of(sequences, options_.rows)) {
    M3_TRY(const LossSums more, differentiator_->losses(pack));
    sums.add(more);
  }
  return sums;
}

// Other elements in every pack of every step.
std::uint64_t Trainer::dropout_key(std::uint64_t pack) const {
  return mix64(mix64(options_.seed + static_cast<std::uint64_t>(steps_) * kGolden) + pack);
}

void Trainer::resume_at(std::int64_t steps, std::int64_t updates) {
  steps_ = steps;
  adam_.resume_at(updates);
  masters_.publish(*pool_);
}

std::string Trainer::why_skip(const StepReport& report, const GradientNorm& norm,
                              const Group& group) const {
  std::string what;
  if (norm.not_finite >= 0)
    what = "the gradient of " + group.names[static_cast<std::size_t>(norm.not_finite)];
  if (std::isfinite(report.loss)) return what.empty() ? what : what + " is not finite";
  return what.empty() ? "the loss is not finite" : "the loss and " + what + " are not finite";
}

}  // namespace m3
