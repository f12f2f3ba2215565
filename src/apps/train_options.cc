#include "apps/train_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "apps/config_file.h"
#include "apps/option_checks.h"

namespace m3 {
namespace {

const std::map<std::string, DType> kMoments = {{"f32", DType::kF32}, {"bf16", DType::kBF16}};

const std::map<std::string, TrainingPrecision> kPrecisions = {{"bf16", TrainingPrecision::kBF16},
                                                              {"f32", TrainingPrecision::kF32}};

const std::map<std::string, Decay> kDecays = {{"constant", Decay::kConstant},
                                              {"linear", Decay::kLinear},
                                              {"cosine", Decay::kCosine},
                                              {"wsd", Decay::kWarmupStableDecay}};

constexpr float kMtpScale = 0.1f;

double rate_of(const TrainOptions& o) {
  return o.rate.value_or(o.lora.any() ? 1e-4 : 1e-5);
}

double least_rate_of(const TrainOptions& o) {
  return o.least_rate.value_or(rate_of(o) / 100);
}

// ------------------------------------------------------------------------------ what is declared

// What is trained, and in which numbers.
void add_kind_options(CLI::App& command, TrainOptions& o) {
  CLI::Option* full = command.add_flag(
      "--full", o.full, "train the weights themselves, all of the parts that --train names");
  add_new_lora_options(command, o.lora);
  full->excludes("--lora", "--adapter");
  command
      .add_option("--train", o.parts,
                  "with --full, the parts of the model that are trained: text, mtp, vision "
                  "(default: text); adapters are of the text model alone")
      ->delimiter(',');
  command
      .add_option("--precision", o.precision,
                  "with --full, how the model reads its float32 weights: bf16, rounded after every "
                  "step, or f32, as they are, more slowly; what enters a product is rounded to "
                  "bfloat16 by the cpu backend in any case (default: bf16)")
      ->check(CLI::IsMember(kPrecisions));
  command
      .add_option("--moments", o.moments,
                  "how AdamW's moments are kept: f32, or bf16, rounded at random so that they keep "
                  "their means: 4 bytes less for each trained number")
      ->check(CLI::IsMember(kMoments))
      ->capture_default_str();
}

// Of the loss, and how it is computed.
void add_loss_options(CLI::App& command, TrainOptions& o) {
  command
      .add_option("--mtp-scale", o.mtp_scale,
                  "with --train mtp, weight of the MTP modules' losses (default: 0.1)")
      ->check(between(0, 1e6));
  add_side_loss_options(command, o.side);
  command
      .add_option("--pack", o.pack,
                  "rows that are computed together, which short sequences share; memory for "
                  "activations grows with it (default: as many as the longest sequence has, which "
                  "is also the least)")
      ->check(between(1, 1 << 24));
  add_recompute_option(command, o.recompute);
}

void add_schedule_options(CLI::App& command, TrainOptions& o) {
  command.add_option("--lr", o.rate, "highest learning rate (default: 1e-5; 1e-4 of an adapter)")
      ->check(between(0, 10));
  command
      .add_option(
          "--min-lr", o.least_rate,
          "learning rate that the schedule falls to, which a step after the last would have "
          "(default: --lr / 100)")
      ->check(between(0, 10));
  command
      .add_option("--schedule", o.schedule,
                  "how the rate falls behind the warm-up: constant (it does not), linear, cosine, "
                  "or wsd, in the last steps alone")
      ->check(CLI::IsMember(kDecays))
      ->capture_default_str();
  command
      .add_option("--warmup", o.warmup,
                  "steps in which the rate rises from a tenth (default: a tenth of the run, at "
                  "most 1000)")
      ->check(whole_number());
  command
      .add_option("--decay-steps", o.decay_steps,
                  "with --schedule wsd, last steps, in which the rate falls (default: a tenth of "
                  "the run)")
      ->check(whole_number());
}

void add_optimiser_options(CLI::App& command, TrainOptions& o) {
  command.add_option("--betas", o.betas, "AdamW's decay of both moments")
      ->delimiter(',')
      ->check(between(0, 0.999999999))
      ->capture_default_str();
  command.add_option("--eps", o.eps, "AdamW's least denominator")
      ->check(between(0, 1, true))
      ->capture_default_str();
  command
      .add_option("--weight-decay", o.weight_decay,
                  "of every trained weight (default: 0.1; 0 of an adapter)")
      ->check(between(0, 10));
  command
      .add_option("--clip", o.clip,
                  "largest norm of the gradient that is not scaled down; 0: none is")
      ->check(between(0, 1e9))
      ->capture_default_str();
}

void add_run_options(CLI::App& command, TrainOptions& o) {
  CLI::Option* out = command.add_option(
      "--out", o.folder.directory,
      "the run's folder, a new directory: its log, curves and checkpoints, and at the end the "
      "trained model, in bfloat16, or the adapter; without it, weights are lost at the end");
  out->check([](const std::string& name) { return name.empty() ? "expected a directory" : ""; });
  command
      .add_flag("--resume", o.folder.resume,
                "go on with the run in --out, given the same options, to the same bits")
      ->needs(out);
  command
      .add_option("--save-every", o.folder.save_every,
                  "steps between checkpoints (default: as often as takes a fiftieth of the time, "
                  "a minute apart or more)")
      ->check(between(1, 1e9))
      ->needs(out);
  command
      .add_option("--patience", o.patience,
                  "end the run after so many validations without a lower loss (default: all steps "
                  "are done)")
      ->check(between(1, 1e9))
      ->needs("--val");
  command
      .add_option("--result", o.result,
                  "what the run writes: what the last step left, or the best, that of the lowest "
                  "validation loss; of a run that has ended, --resume writes the other (default: "
                  "best with --patience, else last)")
      ->check(CLI::IsMember({"last", "best"}))
      ->needs(out);
}

// ------------------------------------------------------------------------------ what they come to

// What an adapter has no use for.
Status expect_kind(const TrainOptions& o) {
  const bool adapter = o.lora.any();
  if (o.full == adapter)
    return fail(
        "expected one of --full, to train all weights, and --lora or --adapter, to train an "
        "adapter");
  if (adapter && !o.parts.empty())
    return fail(
        "--train goes with --full: an adapter is of the text model, in the groups that --lora "
        "names");
  if (adapter && o.precision)
    return fail("--precision goes with --full; an adapter is float32, its base as it is stored");
  return {};
}

// What the choice of another option leaves without effect.
Status expect_effect(const TrainOptions& o, const TrainedParts& parts) {
  if (o.mtp_scale && !parts.mtp)
    return fail("--mtp-scale goes with --train mtp, without which there is no loss that it weighs");
  if (o.decay_steps && o.schedule != "wsd")
    return fail("--decay-steps goes with --schedule wsd, not with {}", o.schedule);
  if (o.least_rate && o.schedule == "constant")
    return fail("--min-lr goes with a schedule that falls, not with --schedule constant");
  if (o.result == "best" && o.steps.validation.empty())
    return fail("--result best goes with --val, without which no step is the best");
  if (least_rate_of(o) > rate_of(o))
    return fail("--min-lr {} is above --lr {}", least_rate_of(o), rate_of(o));
  return {};
}

Result<AdamWOptions> adam_options(const TrainOptions& o) {
  if (o.betas.size() != 2) return fail("--betas: expected two numbers, found {}", o.betas.size());
  return AdamWOptions{.beta1 = o.betas[0],
                      .beta2 = o.betas[1],
                      .eps = o.eps,
                      .weight_decay = o.weight_decay.value_or(o.lora.any() ? 0 : 0.1),
                      .moments = kMoments.at(o.moments)};
}

}  // namespace

void add_train_options(CLI::App& command, TrainOptions& o) {
  add_config_option(command);
  add_model_options(command, o.model);
  add_step_options(command, o.steps);
  add_kind_options(command, o);
  add_loss_options(command, o);
  add_schedule_options(command, o);
  add_optimiser_options(command, o);
  add_run_options(command, o);
  add_sample_options(command, o.samples);
  add_plan_options(command, o.plan);
  command.add_flag("--json", o.json, "on stdout the lines of the log, one JSON object each");
}

void expect_train_options(const CLI::App& command, const TrainOptions& o) {
  if (!o.plan.plan) expect_steps(o.steps);
  expect_adapter(command);
}

Result<TrainedParts> parts_named(const std::vector<std::string>& names) {
  TrainedParts parts{.text = false};
  for (const std::string& name : names) {
    if (name != "text" && name != "mtp" && name != "vision")
      return fail("--train: expected \"text\", \"mtp\" and \"vision\", found \"{}\"", name);
    (name == "text" ? parts.text : name == "mtp" ? parts.mtp : parts.vision) = true;
  }
  return parts;
}

Result<TrainerOptions> trainer_options(const TrainOptions& o) {
  M3_TRY_STATUS(expect_kind(o));
  TrainerOptions trainer;
  if (!o.parts.empty()) {
    M3_TRY(trainer.parts, parts_named(o.parts));
  }
  if (trainer.parts.vision && !o.steps.batches.empty())
    return fail("--train vision: batches of tokens hold no pictures; expected text or mtp");
  M3_TRY_STATUS(expect_effect(o, trainer.parts));
  M3_TRY_STATUS(use_side_losses(o.side, o.lora.any(), trainer));
  if (!o.lora.groups.empty()) M3_TRY_STATUS(new_lora(o.lora));
  if (o.steps.steps > 0) M3_TRY_STATUS(schedule_of(o, o.steps.steps));
  M3_TRY(trainer.adam, adam_options(o));
  trainer.precision = kPrecisions.at(o.precision.value_or("bf16"));
  trainer.mtp_scale = o.mtp_scale.value_or(kMtpScale);
  trainer.keep = o.recompute ? Keep::kInputs : Keep::kAll;
  trainer.clip = o.clip;
  trainer.dropout = o.lora.dropout;
  trainer.seed = o.lora.seed;
  return trainer;
}

bool sees_pictures(const TrainOptions& o, const Config& config) {
  return config.vision.has_value() && !o.model.language_model_only;
}

Result<Schedule> schedule_of(const TrainOptions& o, std::int64_t steps) {
  const Schedule schedule{.decay = kDecays.at(o.schedule),
                          .rate = rate_of(o),
                          .least = least_rate_of(o),
                          .warmup = o.warmup.value_or(std::min<std::int64_t>(1000, steps / 10)),
                          .steps = steps,
                          .falling = o.decay_steps.value_or(steps / 10)};
  if (schedule.warmup > steps)
    return fail("--warmup {}: the run has {} steps", schedule.warmup, steps);
  if (schedule.decay == Decay::kWarmupStableDecay && schedule.warmup + schedule.falling > steps)
    return fail("--warmup {} and --decay-steps {}: the run has {} steps", schedule.warmup,
                schedule.falling, steps);
  return schedule;
}

}  // namespace m3
