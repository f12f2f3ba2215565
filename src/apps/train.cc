// `m3 train`: steps of AdamW on data files, or on sequences of tokens.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>

#include "apps/commands.h"
#include "apps/config_file.h"
#include "apps/lora_options.h"
#include "apps/model_options.h"
#include "apps/option_checks.h"
#include "apps/progress_bar.h"
#include "apps/run_facts.h"
#include "apps/run_folder.h"
#include "apps/side_loss_options.h"
#include "apps/step_batches.h"
#include "apps/train_plan.h"
#include "apps/training_run.h"
#include "backend/cpu/probe.h"
#include "train/save.h"
#include "train/trainer.h"

namespace m3 {
namespace {

struct TrainOptions {
  ModelOptions model;
  StepOptions steps;
  bool full = false;
  NewLoraOptions lora;
  SideLossOptions side;
  std::string precision = "bf16";
  std::string moments = "f32";
  std::vector<std::string> train = {"text"};
  std::string schedule = "cosine";
  std::vector<double> betas = {0.9, 0.95};
  std::int64_t warmup = -1;
  std::int64_t decay_steps = -1;
  double least_rate = -1;
  std::int64_t pack = 0;
  bool recompute = false;
  TrainerOptions trainer{.mtp_scale = 0.1f, .adam = {.weight_decay = -1}, .schedule = {.rate = -1}};
  RunFolderOptions folder;
  PlanOptions plan;
  SampleOptions samples;
  std::int64_t patience = 0;
  bool json = false;
};

const std::map<std::string, DType> kMoments = {{"f32", DType::kF32}, {"bf16", DType::kBF16}};

const std::map<std::string, TrainingPrecision> kPrecisions = {{"bf16", TrainingPrecision::kBF16},
                                                              {"f32", TrainingPrecision::kF32}};

Result<TrainedParts> trained_parts(const TrainOptions& o) {
  TrainedParts parts{.text = false};
  for (const std::string& name : o.train) {
    if (name == "vision" && !o.steps.batches.empty())
      return fail("--train vision: batches of tokens hold no pictures; expected text or mtp");
    if (name != "text" && name != "mtp" && name != "vision")
      return fail("--train: expected \"text\", \"mtp\" and \"vision\", found \"{}\"", name);
    (name == "text" ? parts.text : name == "mtp" ? parts.mtp : parts.vision) = true;
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

// Writes what was trained: a model, or an adapter.
struct ResultWriter {
  const TrainOptions& options;
  LoadedModel& loaded;
  const Lora* adapter;  // null: all weights were trained

  SaveOptions saving(const RunFolder& folder) const {
    return {.source = options.model.model,
            .directory = folder.result_directory(),
            .vision = !options.model.language_model_only,
            .pool = &loaded.pool};
  }

  // Nothing is left of asking.
  Status expect_room(const RunFolder& folder, const Trainer& trainer) const {
    const SaveOptions o = saving(folder);
    const Status room = adapter == nullptr ? expect_savable(o, trainer.weights())
                                           : expect_room_for(*adapter, o.directory);
    std::error_code error;
    std::filesystem::remove(o.directory, error);
    std::filesystem::remove(o.directory + ".part", error);
    return room;
  }

  Status write(const RunFolder& folder, const Trainer& trainer) const {
    if (adapter != nullptr) {
      M3_TRY(const LoraNames names, lora_names(options.lora, *adapter, *loaded.model));
      return save_lora(
          *adapter, {folder.result_directory(), options.model.model, names, options.lora.dropout});
    }
    SaveOptions shown = saving(folder);
    ProgressBar bar("writing " + options.folder.directory, "B");
    shown.progress = bar.callback();
    M3_TRY(const RewriteReport report, save_trained(shown, trainer.weights(), trainer.values()));
    for (const std::string& name : report.left_out)
      std::fprintf(stderr, "warning: %s is large and was not copied\n", name.c_str());
    std::fprintf(stderr, "%s: %s of weights\n", options.folder.directory.c_str(),
                 quantity(static_cast<double>(report.bytes), "B").c_str());
    return {};
  }
};

// Defaults: spec, training §8.1.
Status check_kind(TrainOptions& o) {
  const bool adapter = o.lora.any();
  if (o.full == adapter)
    return fail(
        "expected one of --full, to train all weights, and --lora or --adapter, to train an "
        "adapter");
  if (adapter && o.train != TrainOptions().train)
    return fail("--train goes with --full; --lora names what an adapter is for");
  if (adapter && o.precision != TrainOptions().precision)
    return fail("--precision goes with --full; an adapter is float32, its base as it is stored");
  o.trainer.precision = kPrecisions.at(o.precision);
  o.trainer.adam.moments = kMoments.at(o.moments);
  if (o.trainer.schedule.rate < 0) o.trainer.schedule.rate = adapter ? 1e-4 : 1e-5;
  if (o.trainer.adam.weight_decay < 0) o.trainer.adam.weight_decay = adapter ? 0 : 0.1;
  return {};
}

// Shown and attached.
Result<Lora> begin_lora(const NewLoraOptions& options, Model& model, bool json) {
  M3_TRY(Lora lora, lora_to_begin_with(options, model));
  std::fprintf(json ? stderr : stdout, "%s", lora_table(lora).c_str());
  M3_TRY_STATUS(lora_names(options, lora, model));
  M3_TRY_STATUS(attach(lora, model));
  return lora;
}

Result<TrainingWork> count_work(const TrainOptions& o, const Model& model, const Lora* adapter) {
  const std::int64_t modules = o.trainer.parts.mtp ? model.mtp_modules() : 0;
  M3_TRY(const auto table, weight_table(model.config(), modules));
  const bool full = adapter == nullptr;
  return TrainingWork(model.config(), table, o.trainer.parts,
                      full ? std::nullopt : std::optional(adapted_by(*adapter)));
}

Result<std::vector<RunFact>> facts_of(const TrainOptions& o, const LoadedModel& loaded,
                                      const StepBatches& batches) {
  M3_TRY(std::vector<RunFact> facts, model_facts(o.model, loaded));
  const auto append = [&](const std::vector<RunFact>& more) {
    facts.insert(facts.end(), more.begin(), more.end());
  };
  if (o.full) {
    append({{"--full", "given"}, {"--precision", o.precision}});
  } else {
    append(lora_facts(*loaded.lora, o.lora));
  }
  M3_TRY(const std::vector<RunFact> steps, batches.facts(o.steps));
  append(steps);
  append(trainer_facts(o.trainer, o.schedule));
  append(side_loss_facts(o.side));
  return facts;
}

// All steps that are left, and the result.
Status keep_run(const TrainingRun& run, const ResultWriter& result) {
  RunFolder& folder = *run.folder;
  const std::string& directory = result.options.folder.directory;
  const auto is_done = [&] {
    return run.trainer.steps() == run.batches.steps() ||
           has_lost_patience(folder.log().validations(), run.patience);
  };
  if (is_done() && folder.is_published()) {
    std::fprintf(stderr, "%s: this run has ended; nothing is left to do\n", directory.c_str());
    return {};
  }
  M3_TRY(const int signal, run_steps(run));
  M3_TRY_STATUS(folder.save());
  if (signal != 0) {
    std::fprintf(stderr,
                 "stopped after step %lld of %lld, as asked, and saved; the same command with "
                 "--resume goes on\n",
                 static_cast<long long>(run.trainer.steps()),
                 static_cast<long long>(run.batches.steps()));
    end_by(signal);
  }
  if (run.trainer.steps() < run.batches.steps()) {
    std::fprintf(stderr,
                 "%lld validations without a lower loss: the run ends after step %lld, and its "
                 "result is that of the lowest\n",
                 static_cast<long long>(run.patience), static_cast<long long>(run.trainer.steps()));
    M3_TRY_STATUS(folder.take_best());
  }
  M3_TRY_STATUS(result.write(folder, run.trainer));
  return folder.publish();
}

Status run_plan(const TrainOptions& o) {
  PlannedTraining training{.parts = o.trainer.parts,
                           .precision = o.trainer.precision,
                           .moments = o.trainer.adam.moments,
                           .keep = o.recompute ? Keep::kInputs : Keep::kAll,
                           .rows = o.pack};
  if (!o.lora.adapter.empty() && o.lora.groups.empty())
    return fail("--plan reads no adapter: say by --lora and --rank what --adapter has");
  if (!o.full) {
    M3_TRY(training.lora, new_lora(o.lora));
  }
  PlanOptions plan = o.plan;
  plan.json = o.json;
  return print_plan(plan, o.model, o.steps, training);
}

Status run_train(TrainOptions o) {
  M3_TRY_STATUS(check_kind(o));
  M3_TRY(o.trainer.parts, trained_parts(o));
  M3_TRY_STATUS(use_side_losses(o.side, !o.full, o.trainer));
  if (o.plan.plan) return run_plan(o);
  if (o.betas.size() != 2) return fail("--betas: expected two numbers, found {}", o.betas.size());
  o.trainer.adam.beta1 = o.betas[0];
  o.trainer.adam.beta2 = o.betas[1];
  o.model.mtp = o.trainer.parts.mtp;
  o.model.packed = !(o.full && o.trainer.parts.text);  // they are replaced by what is trained
  std::unique_ptr<RunFolder> folder;
  if (!o.folder.directory.empty()) {
    M3_TRY(folder, RunFolder::claim(o.folder));
  }
  M3_TRY(const auto loaded, load_model(o.model));
  M3_TRY(auto batches, StepBatches::open(o.steps, o.model.model, *loaded, o.trainer.parts.vision));
  const std::int64_t steps = batches.steps();
  M3_TRY(o.trainer.schedule, make_schedule(o, steps));
  o.trainer.rows = std::max(o.pack, batches.longest());
  o.trainer.step_bytes = batches.step_bytes(o.trainer.rows);
  o.trainer.keep = o.recompute ? Keep::kInputs : Keep::kAll;
  if (!o.full) {
    M3_TRY(loaded->lora, begin_lora(o.lora, *loaded->model, o.json));
  }
  Lora* adapter = o.full ? nullptr : &*loaded->lora;
  o.trainer.dropout = o.lora.dropout;
  o.trainer.seed = o.lora.seed;
  M3_TRY(const auto trainer, Trainer::create(*loaded->model, o.trainer, loaded->pool, adapter));
  M3_TRY(const TrainingWork work, count_work(o, *loaded->model, adapter));
  double peak = 0;
  if (!loaded->backend->isa().empty()) {
    M3_TRY(peak, probe_matrix(loaded->pool, loaded->backend->isa()));
  }
  M3_TRY(const auto samples, TrainingSamples::create(o.samples, *loaded));
  const TrainingRun run{.trainer = *trainer,
                        .batches = batches,
                        .rows = o.trainer.rows,
                        .folder = folder.get(),
                        .json = o.json,
                        .work = &work,
                        .peak_tflop_per_s = peak,
                        .samples = o.samples.prompts.empty() ? nullptr : &samples,
                        .patience = o.patience};
  if (folder == nullptr) {
    M3_TRY(const int signal, run_steps(run));
    if (signal != 0) {
      std::fprintf(stderr, "stopped before the last step, as asked\n");
      end_by(signal);
    }
    return {};
  }
  const ResultWriter result{o, *loaded, adapter};
  M3_TRY_STATUS(result.expect_room(*folder, *trainer));
  M3_TRY(const std::vector<RunFact> facts, facts_of(o, *loaded, batches));
  M3_TRY_STATUS(folder->begin(facts, *trainer, batches.validation_batches() > 0));
  return keep_run(run, result);
}

}  // namespace

void add_train(CLI::App& app, Run& run) {
  auto o = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand(
      "train",
      "Train on data files, print each step and write the trained model, or an adapter.\n"
      "What is learnt are the next tokens of the data: neither DPO nor GRPO is here.");
  add_config_option(*command);
  add_model_options(*command, o->model);
  add_step_options(*command, o->steps);
  command->add_flag("--full", o->full, "train all weights of the parts");
  command
      ->add_option("--precision", o->precision,
                   "with --full, what the model reads of its float32 weights: bf16, rounded after "
                   "every step, or f32, themselves, more slowly")
      ->check(CLI::IsMember(kPrecisions))
      ->capture_default_str();
  add_new_lora_options(*command, o->lora);
  command->add_option("--train", o->train, "with --full, parts of the model: text, mtp, vision")
      ->delimiter(',')
      ->capture_default_str();
  add_side_loss_options(*command, o->side);
  command->add_option("--mtp-scale", o->trainer.mtp_scale, "weight of the MTP modules' losses")
      ->check(between(0, 1e6))
      ->capture_default_str();
  command->add_option("--pack", o->pack, "rows of short sequences that are computed together")
      ->check(between(1, 1 << 24));
  add_recompute_option(*command, o->recompute);
  command
      ->add_option("--lr", o->trainer.schedule.rate,
                   "highest learning rate (default: 1e-5; 1e-4 of an adapter)")
      ->check(between(0, 10));
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
  command
      ->add_option("--moments", o->moments,
                   "f32, or bf16, rounded at random so that they keep their means: 4 bytes less "
                   "for each trained number")
      ->check(CLI::IsMember(kMoments))
      ->capture_default_str();
  command
      ->add_option("--weight-decay", o->trainer.adam.weight_decay,
                   "of every trained weight (default: 0.1; 0 of an adapter)")
      ->check(between(0, 10));
  command
      ->add_option("--clip", o->trainer.clip,
                   "largest norm of the gradient that is not scaled down; 0: none is")
      ->check(between(0, 1e9))
      ->capture_default_str();
  CLI::Option* out = command->add_option(
      "--out", o->folder.directory,
      "the run's folder, a new directory: its log, curves and checkpoints, and at the end the "
      "trained model, in bfloat16, or the adapter; without it, weights are lost at the end");
  command
      ->add_flag("--resume", o->folder.resume,
                 "go on with the run in --out, given the same options, to the same bits")
      ->needs(out);
  command
      ->add_option("--save-every", o->folder.save_every,
                   "steps between checkpoints (default: as often as takes a fiftieth of the time, "
                   "a minute apart or more)")
      ->check(between(1, 1e9))
      ->needs(out);
  command
      ->add_option("--patience", o->patience,
                   "end the run after so many validations without a lower loss; the result is then "
                   "that of the lowest (default: all steps are done)")
      ->check(between(1, 1e9))
      ->needs("--val");
  add_sample_options(*command, o->samples);
  add_plan_options(*command, o->plan);
  command->add_flag("--json", o->json, "on stdout the lines of the log, one JSON object each");
  command->callback([o, command, &run] {
    if (!o->plan.plan) expect_steps(o->steps);
    expect_adapter(*command);
    run = [o] { return run_train(*o); };
  });
}

}  // namespace m3
