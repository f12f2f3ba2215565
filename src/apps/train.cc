// `m3 train`: steps of AdamW on data files, or on sequences of tokens.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "apps/commands.h"
#include "apps/run_facts.h"
#include "apps/run_folder.h"
#include "apps/run_result.h"
#include "apps/train_options.h"
#include "apps/training_run.h"
#include "backend/cpu/probe.h"
#include "backend/registry.h"
#include "model/weight_match.h"
#include "train/trainer.h"

namespace m3 {
namespace {

struct Adapter {
  Lora lora;
  LoraNames names;  // under which it is saved
};

// All that a run needs but the model's weights, which may take minutes to load.
struct Prepared {
  TrainerOptions trainer;
  StepBatches batches;
  std::optional<TrainingSamples> samples = {};  // none were asked for
  std::optional<Adapter> adapter = {};          // none: weights are trained
};

// That the backend is here, and that the model has the parts that are to be trained.
Status expect_runnable(const TrainOptions& o, const TrainedParts& parts, const Config& config,
                       ThreadPool& pool) {
  M3_TRY_STATUS(make_backend(o.model.backend, o.model.isa, pool));
  M3_TRY(const auto checkpoint, Checkpoint::open(o.model.model));
  M3_TRY(const std::int64_t modules, count_mtp_modules(*checkpoint));
  return expect_parts(parts, config, modules, sees_pictures(o, config));
}

// Shows what the adapter changes.
Result<Adapter> prepare_adapter(const TrainOptions& o, const Config& config) {
  M3_TRY(Lora lora, lora_to_begin_with(o.lora, config));
  std::fprintf(o.json ? stderr : stdout, "%s", lora_table(lora).c_str());
  M3_TRY(const LoraNames names, lora_names(o.lora, lora, config));
  std::fprintf(stderr, "%s", lora_notes(o.lora, lora, names).c_str());
  return Adapter{std::move(lora), names};
}

// Finds what is wrong with the options, the model's headers and the data.
Result<Prepared> prepare(const TrainOptions& o, const TrainerOptions& trainer) {
  ThreadPool pool(o.model.threads);
  M3_TRY(const Config config, load_config(o.model.model));
  M3_TRY_STATUS(expect_runnable(o, trainer.parts, config, pool));
  std::optional<Adapter> adapter;
  if (!o.full) {
    M3_TRY(adapter, prepare_adapter(o, config));
  }
  std::optional<Tokenizer> tokenizer;
  if (!o.steps.data.files.empty() || !o.samples.prompts.empty()) {
    M3_TRY(tokenizer, Tokenizer::load(o.model.model));
  }
  M3_TRY(StepBatches batches,
         StepBatches::open(o.steps, {.directory = o.model.model,
                                     .config = config,
                                     .tokenizer = tokenizer ? &*tokenizer : nullptr,
                                     .vision = sees_pictures(o, config),
                                     .pool = pool}));
  if (trainer.parts.vision && !batches.shows_pictures())
    return fail("--train vision: no sample of --data has a picture or clip to learn from");
  Prepared prepared{
      .trainer = trainer, .batches = std::move(batches), .adapter = std::move(adapter)};
  M3_TRY(prepared.trainer.schedule, schedule_of(o, prepared.batches.steps()));
  prepared.trainer.rows = rows_together(o.pack, prepared.batches.longest());
  if (!o.samples.prompts.empty()) {
    M3_TRY(prepared.samples, TrainingSamples::create(o.samples, config, *tokenizer));
  }
  return prepared;
}

Result<std::unique_ptr<LoadedModel>> load(const TrainOptions& o, Prepared& prepared) {
  const TrainedParts& parts = prepared.trainer.parts;
  ModelOptions options = o.model;
  options.mtp = parts.mtp;
  options.packed = !(o.full && parts.text);  // else replaced by what is trained
  M3_TRY(auto loaded, load_model(options));
  if (prepared.adapter) {
    loaded->lora = std::move(prepared.adapter->lora);
    M3_TRY_STATUS(attach(*loaded->lora, *loaded->model));
  }
  prepared.batches.encode_with(*loaded->model, parts.vision);
  prepared.trainer.step_bytes = prepared.batches.step_bytes(prepared.trainer.rows);
  if (prepared.samples) prepared.samples->answer_with(*loaded);
  return loaded;
}

Result<TrainingWork> count_work(const TrainedParts& parts, const LoadedModel& loaded) {
  M3_TRY(const auto table,
         weight_table(loaded.config(), parts.mtp ? loaded.model->mtp_modules() : 0));
  return TrainingWork(loaded.config(), table, parts,
                      loaded.lora ? std::optional(adapted_by(*loaded.lora)) : std::nullopt);
}

Result<std::vector<RunFact>> facts_of(const TrainOptions& o, const Prepared& prepared,
                                      const LoadedModel& loaded) {
  M3_TRY(std::vector<RunFact> facts, model_facts(o.model, loaded));
  const auto append = [&](const std::vector<RunFact>& more) {
    facts.insert(facts.end(), more.begin(), more.end());
  };
  const bool rounds = prepared.trainer.precision == TrainingPrecision::kBF16;
  if (o.full)
    append({{"--full", "given"}, {"--precision", rounds ? "bf16" : "f32"}});
  else
    append(lora_facts(*loaded.lora, o.lora));
  M3_TRY(const std::vector<RunFact> steps, prepared.batches.facts(o.steps));
  append(steps);
  append(trainer_facts(prepared.trainer, o.schedule));
  append(side_loss_facts(o.side));
  return facts;
}

// All steps that are left, with nothing kept of them.
Status show_run(const TrainingRun& run) {
  std::fprintf(stderr, "note: without --out DIR what is trained is lost at the end\n");
  M3_TRY(const int signal, run_steps(run));
  if (signal == 0) return {};
  std::fprintf(stderr, "stopped before the last step, as asked; nothing is kept without --out\n");
  end_by(signal);
}

// Lets the trainer have what the run is to write, and says which step that is of where there was a
// choice.
Status choose_result(const TrainingRun& run, bool takes_best) {
  RunFolder& folder = *run.folder;
  const ValidationLine* best = lowest(folder.log().validations());
  if (best == nullptr || best->step == run.trainer.steps()) return {};
  std::fprintf(stderr, "the lowest validation loss was %.4f, after step %lld: %s\n", best->loss,
               static_cast<long long>(best->step),
               takes_best
                   ? "the result is of that step"
                   : "the result is of the last step; --resume --result best writes the other");
  return takes_best ? folder.take_best() : Status();
}

// All steps that are left, and the result. `asks_again`: also of a run that has ended.
Status keep_run(const TrainingRun& run, const RunResult& result, bool takes_best, bool asks_again) {
  RunFolder& folder = *run.folder;
  const auto is_done = [&] {
    return run.trainer.steps() == run.batches.steps() ||
           has_lost_patience(folder.log().validations(), run.patience);
  };
  if (is_done() && folder.is_published() && !asks_again) {
    std::fprintf(stderr, "%s: this run has ended; nothing is left to do\n",
                 result.directory.c_str());
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
  if (run.trainer.steps() < run.batches.steps())
    std::fprintf(stderr, "%lld validations without a lower loss: the run ends after step %lld\n",
                 static_cast<long long>(run.patience), static_cast<long long>(run.trainer.steps()));
  M3_TRY_STATUS(choose_result(run, takes_best));
  M3_TRY_STATUS(result.write(folder, run.trainer));
  return folder.publish();
}

Status run_train(const TrainOptions& o) {
  M3_TRY(const TrainerOptions trainer_options, m3::trainer_options(o));
  if (o.plan.plan) return print_plan(o, trainer_options);
  std::unique_ptr<RunFolder> folder;
  if (!o.folder.directory.empty()) {
    M3_TRY(folder, RunFolder::claim(o.folder));
  }
  M3_TRY(Prepared prepared, prepare(o, trainer_options));
  M3_TRY(const auto loaded, load(o, prepared));
  M3_TRY(const auto trainer, Trainer::create(*loaded->model, prepared.trainer, loaded->pool,
                                             loaded->lora ? &*loaded->lora : nullptr));
  M3_TRY(const TrainingWork work, count_work(prepared.trainer.parts, *loaded));
  double peak = 0;
  if (!loaded->backend->isa().empty()) {
    M3_TRY(peak, probe_matrix(loaded->pool, loaded->backend->isa()));
  }
  const TrainingRun run{.trainer = *trainer,
                        .batches = prepared.batches,
                        .rows = prepared.trainer.rows,
                        .folder = folder.get(),
                        .json = o.json,
                        .work = &work,
                        .peak_tflop_per_s = peak,
                        .samples = prepared.samples ? &*prepared.samples : nullptr,
                        .patience = o.patience};
  if (folder == nullptr) return show_run(run);
  const RunResult result{*loaded, o.model, o.folder.directory,
                         prepared.adapter ? prepared.adapter->names : LoraNames::kTransformers,
                         o.lora.dropout};
  M3_TRY_STATUS(result.expect_room(*folder, *trainer));
  M3_TRY(const std::vector<RunFact> facts, facts_of(o, prepared, *loaded));
  M3_TRY_STATUS(folder->begin(facts, *trainer, prepared.batches.validation_batches() > 0));
  const bool takes_best = o.result.empty() ? o.patience > 0 : o.result == "best";
  return keep_run(run, result, takes_best, !o.result.empty());
}

}  // namespace

void add_train(CLI::App& app, Run& run) {
  auto o = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand(
      "train",
      "Train on data files, print each step and write the trained model, or an adapter.\n"
      "What is learnt are the next tokens of the data: neither DPO nor GRPO is here.");
  add_train_options(*command, *o);
  command->callback([o, command, &run] {
    expect_train_options(*command, *o);
    run = [o] { return run_train(*o); };
  });
}

}  // namespace m3
