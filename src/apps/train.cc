// `m3 train`: steps of AdamW on sequences of tokens.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/model_options.h"
#include "apps/option_checks.h"
#include "apps/pixel_file.h"
#include "apps/progress_bar.h"
#include "apps/training_file.h"
#include "train/packs.h"
#include "train/save.h"
#include "train/trainer.h"

namespace m3 {
namespace {

struct TrainOptions {
  ModelOptions model;
  std::string batches;
  bool full = false;
  std::string precision;
  std::vector<std::string> train = {"text"};
  std::string schedule = "cosine";
  std::vector<double> betas = {0.9, 0.95};
  std::int64_t warmup = -1;
  std::int64_t decay_steps = -1;
  double least_rate = -1;
  std::int64_t pack = 0;
  TrainerOptions trainer{
      .mtp_scale = 0.1f, .adam = {.weight_decay = 0.1}, .schedule = {.rate = 1e-5}};
  std::string out;
  bool json = false;
};

// Set by the first Ctrl-C or SIGTERM; the second ends the program.
volatile std::sig_atomic_t stop_asked = 0;

extern "C" void ask_to_stop(int signal) {
  stop_asked = 1;
  std::signal(signal, SIG_DFL);
}

Result<TrainedParts> trained_parts(const std::vector<std::string>& names) {
  TrainedParts parts{.text = false};
  for (const std::string& name : names) {
    if (name == "vision")
      return fail("--train vision: batches of tokens hold no pictures; expected text or mtp");
    if (name != "text" && name != "mtp")
      return fail("--train: expected \"text\" and \"mtp\", found \"{}\"", name);
    (name == "text" ? parts.text : parts.mtp) = true;
  }
  return parts;
}

const std::map<std::string, Decay> kDecays = {{"constant", Decay::kConstant},
                                              {"linear", Decay::kLinear},
                                              {"cosine", Decay::kCosine},
                                              {"wsd", Decay::kWarmupStableDecay}};

// Defaults: spec, training §8.2.
Result<Schedule> make_schedule(const TrainOptions& o, std::int64_t steps) {
  Schedule schedule = o.trainer.schedule;
  schedule.decay = kDecays.at(o.schedule);
  schedule.steps = steps;
  schedule.least = o.least_rate >= 0 ? o.least_rate : schedule.rate / 100;
  schedule.warmup = o.warmup >= 0 ? o.warmup : std::min<std::int64_t>(1000, steps / 10);
  schedule.falling = o.decay_steps >= 0 ? o.decay_steps : steps / 10;
  if (schedule.warmup > steps)
    return fail("--warmup {}: the run has {} steps", schedule.warmup, steps);
  if (schedule.decay == Decay::kWarmupStableDecay && schedule.warmup + schedule.falling > steps)
    return fail("--warmup {} and --decay-steps {}: the run has {} steps", schedule.warmup,
                schedule.falling, steps);
  if (schedule.least > schedule.rate)
    return fail("--min-lr {} is above --lr {}", schedule.least, schedule.rate);
  return schedule;
}

void print_step(std::int64_t step, std::int64_t steps, std::int64_t rows, const StepReport& report,
                double seconds, bool json) {
  const double rate = static_cast<double>(rows) / seconds;
  if (json) {
    nlohmann::ordered_json line{
        {"step", step},      {"loss", report.loss},     {"grad_norm", report.gradient_norm},
        {"lr", report.rate}, {"scored", report.scored}, {"tokens_per_second", rate}};
    if (!report.skipped.empty()) line["skipped"] = report.skipped;
    std::printf("%s\n", line.dump().c_str());
  } else {
    std::printf("step %lld/%lld  loss %.4f  norm %.3g  lr %.3g  %.1f tokens/s  %.0f s left%s%s\n",
                static_cast<long long>(step), static_cast<long long>(steps), report.loss,
                report.gradient_norm, report.rate, rate,
                static_cast<double>(steps - step) * seconds,
                report.skipped.empty() ? "" : "  skipped: ", report.skipped.c_str());
  }
  std::fflush(stdout);
}

Status save(const SaveOptions& options, const Trainer& trainer) {
  ProgressBar bar("writing " + options.directory, "B");
  SaveOptions shown = options;
  shown.progress = bar.callback();
  M3_TRY(const RewriteReport report, save_trained(shown, trainer.weights(), trainer.values()));
  for (const std::string& name : report.left_out)
    std::fprintf(stderr, "warning: %s is large and was not copied\n", name.c_str());
  std::fprintf(stderr, "%s: %s of weights\n", options.directory.c_str(),
               quantity(static_cast<double>(report.bytes), "B").c_str());
  return {};
}

Status run_train(TrainOptions o) {
  if (!o.full) return fail("only --full is there yet: adapters are not");
  M3_TRY(o.trainer.parts, trained_parts(o.train));
  if (!o.out.empty() && o.trainer.parts.mtp)
    return fail(
        "--out: trained MTP modules cannot be saved yet, as drafting would not read them "
        "as they were trained");
  if (o.betas.size() != 2) return fail("--betas: expected two numbers, found {}", o.betas.size());
  o.trainer.adam.beta1 = o.betas[0];
  o.trainer.adam.beta2 = o.betas[1];
  o.model.mtp = o.trainer.parts.mtp;
  M3_TRY(const auto loaded, load_model(o.model));
  M3_TRY(const auto batches, read_training_batches(o.batches, loaded->config()));
  const std::int64_t steps = std::ssize(batches);
  M3_TRY(o.trainer.schedule, make_schedule(o, steps));
  o.trainer.rows = o.pack;
  for (const auto& batch : batches)
    for (const TrainingSequence& sequence : batch) {
      M3_TRY_STATUS(expect_no_placeholder(sequence.ids, loaded->config()));
      o.trainer.rows = std::max(o.trainer.rows, std::ssize(sequence.ids));
    }
  M3_TRY(const auto trainer, Trainer::create(*loaded->model, o.trainer, loaded->pool));
  const SaveOptions saving{.source = o.model.model,
                           .directory = o.out,
                           .vision = !o.model.language_model_only,
                           .pool = &loaded->pool};
  if (!o.out.empty()) M3_TRY_STATUS(expect_savable(saving, trainer->weights()));
  std::signal(SIGINT, ask_to_stop);
  std::signal(SIGTERM, ask_to_stop);
  for (std::int64_t step = 0; step < steps && stop_asked == 0; ++step) {
    const auto& batch = batches[static_cast<std::size_t>(step)];
    const auto begin = std::chrono::steady_clock::now();
    M3_TRY(const StepReport report, trainer->step(batch));
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    print_step(step + 1, steps, rows_of(batch), report, time.count(), o.json);
  }
  if (stop_asked != 0) std::fprintf(stderr, "stopped before the last step, as asked\n");
  return o.out.empty() ? Status() : save(saving, *trainer);
}

}  // namespace

void add_train(CLI::App& app, Run& run) {
  auto o = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand(
      "train", "Train on batches of tokens, print each step and write the trained model");
  add_model_options(*command, o->model);
  command
      ->add_option("--batches", o->batches,
                   "JSON: {\"steps\": [{\"sequences\": [{\"ids\": [...], \"labels\": [...]}]}]}, a "
                   "batch for each step; labels as for m3 gradients")
      ->required();
  command->add_flag("--full", o->full, "train all weights of the parts");
  command->add_option("--precision", o->precision, "f32: float32 weights and moments")
      ->check(CLI::IsMember({"f32"}))
      ->required();
  command->add_option("--train", o->train, "parts of the model: text, mtp")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--mtp-scale", o->trainer.mtp_scale, "weight of the MTP modules' losses")
      ->check(between(0, 1e6))
      ->capture_default_str();
  command->add_option("--pack", o->pack, "rows of short sequences that are computed together")
      ->check(between(1, 1 << 24));
  command->add_option("--lr", o->trainer.schedule.rate, "highest learning rate")
      ->check(between(0, 10))
      ->capture_default_str();
  command->add_option("--min-lr", o->least_rate, "at the end of the run (default: --lr / 100)")
      ->check(between(0, 10));
  command->add_option("--schedule", o->schedule, "constant, linear, cosine or wsd")
      ->check(CLI::IsMember(kDecays))
      ->capture_default_str();
  command
      ->add_option("--warmup", o->warmup,
                   "steps in which the rate rises from a tenth (default: a tenth of the run, at "
                   "most 1000)")
      ->check(whole_number());
  command
      ->add_option("--decay-steps", o->decay_steps,
                   "wsd: last steps, in which the rate falls (default: a tenth of the run)")
      ->check(whole_number());
  command->add_option("--betas", o->betas, "AdamW's decay of both moments")
      ->delimiter(',')
      ->check(between(0, 0.999999999))
      ->capture_default_str();
  command->add_option("--eps", o->trainer.adam.eps, "AdamW's least denominator")
      ->check(between(0, 1, true))
      ->capture_default_str();
  command->add_option("--weight-decay", o->trainer.adam.weight_decay, "of every trained weight")
      ->check(between(0, 10))
      ->capture_default_str();
  command
      ->add_option("--clip", o->trainer.clip,
                   "largest norm of the gradient that is not scaled down; 0: none is")
      ->check(between(0, 1e9))
      ->capture_default_str();
  command->add_option("--out", o->out,
                      "new directory for the trained model, in bfloat16; without it, weights are "
                      "lost at the end");
  command->add_flag("--json", o->json, "one JSON object for each step");
  command->callback([o, &run] { run = [o] { return run_train(*o); }; });
}

}  // namespace m3
