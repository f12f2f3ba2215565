#include "train/trainer.h"

#include <cmath>

#include "base/machine.h"
#include "train/packs.h"

namespace m3 {
namespace {

// As torch.nn.utils.clip_grad_norm_ has it: a norm a little over the bound ends a little under it.
constexpr double kClipEps = 1e-6;

double gigabytes(std::int64_t bytes) {
  return static_cast<double>(bytes) * 1e-9;
}

}  // namespace

Trainer::Trainer(const TrainerOptions& options, ThreadPool& pool, WeightGradients gradients)
    : options_(options), pool_(&pool), gradients_(std::move(gradients)) {}

Result<std::unique_ptr<Trainer>> Trainer::create(Model& model, const TrainerOptions& options,
                                                 ThreadPool& pool) {
  M3_TRY(WeightGradients gradients, WeightGradients::create(model, options.parts));
  std::unique_ptr<Trainer> trainer(new Trainer(options, pool, std::move(gradients)));
  M3_TRY(trainer->adam_, AdamW::create(trainer->gradients_.weights(), options.adam));
  M3_TRY(Differentiator differentiator,
         Differentiator::create(model, trainer->gradients_, options.rows, options.mtp_scale));
  trainer->differentiator_ = std::make_unique<Differentiator>(std::move(differentiator));
  // Nothing of this has been touched yet; masters are as large as gradients.
  const std::int64_t bytes = trainer->bytes() + trainer->gradients_.bytes();
  if (bytes > available_memory())
    return fail(
        "training needs {:.1f} GB, 16 bytes for each trained weight and {:.1f} GB for what is kept "
        "of {} rows: the system has {:.1f} GB left",
        gigabytes(bytes), gigabytes(trainer->differentiator_->bytes()), options.rows,
        gigabytes(available_memory()));
  M3_TRY(trainer->masters_, MasterWeights::create(trainer->gradients_.weights()));
  return trainer;
}

Result<StepReport> Trainer::step(std::span<const TrainingSequence> sequences) {
  StepReport report{.rate = options_.schedule.at(steps_), .scored = scored_labels(sequences)};
  ++steps_;
  if (report.scored == 0) {
    report.skipped = "no label is scored";
    return report;
  }
  gradients_.clear();
  LossSums sums;
  for (const auto& pack : packs_of(sequences, options_.rows)) {
    M3_TRY(const LossSums more, differentiator_->add(pack, report.scored));
    sums.add(more);
  }
  report.loss = sums.total(options_.mtp_scale) / static_cast<double>(report.scored);
  const GradientNorm norm = gradient_norm(gradients_.tensors(), *pool_);
  report.gradient_norm = norm.norm;
  report.skipped = why_skip(report, norm);
  if (!report.skipped.empty()) return report;
  const bool clips = options_.clip > 0 && norm.norm > options_.clip;
  adam_.step(masters_.tensors(), gradients_.tensors(), report.rate,
             clips ? options_.clip / (norm.norm + kClipEps) : 1, *pool_);
  return report;
}

std::string Trainer::why_skip(const StepReport& report, const GradientNorm& norm) const {
  if (norm.not_finite >= 0)
    return "the gradient of " +
           gradients_.weights()[static_cast<std::size_t>(norm.not_finite)].name + " is not finite";
  if (!std::isfinite(report.loss)) return "the loss is not finite";
  return {};
}

std::int64_t Trainer::bytes() const {
  return gradients_.bytes() + masters_.bytes() + adam_.bytes() + differentiator_->bytes();
}

}  // namespace m3
