// `m3 logits`: the model's answers as numbers, for comparing.
#include <CLI/CLI.hpp>

#include "apps/commands.h"
#include "apps/logits_run.h"
#include "apps/model_options.h"
#include "apps/progress_bar.h"
#include "checkpoint/safetensors.h"

namespace m3 {
namespace {

struct LogitsOptions {
  ModelOptions model;
  LogitsRun run;
  std::vector<std::string> ids_files;
  std::string out;
};

Status run_command(const LogitsOptions& options) {
  LogitsRun run = options.run;
  for (const std::string& file : options.ids_files) {
    M3_TRY(run.sequences.emplace_back(), read_ids_file(file));
  }
  ModelOptions model = options.model;
  model.mtp = run.mtp;
  M3_TRY(const auto loaded, load_model(model));
  ProgressBar bar("computing logits", "rows");
  M3_TRY(const auto recorder, m3::run_logits(*loaded->model, run, bar.callback()));
  return write_safetensors(options.out, recorder->tensors());
}

}  // namespace

void add_logits(CLI::App& app, Run& run) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* command = app.add_subcommand("logits", "Write the logits of token sequences to a file");
  add_model_options(*command, options->model);
  command
      ->add_option("--ids-file", options->ids_files,
                   "JSON list of token ids; several make one batch, and prefix the outputs 0. 1. …")
      ->required()
      ->allow_extra_args(false)
      ->take_all();
  command->add_flag("--trace", options->run.trace,
                    "also hidden states, experts, their weights and blocks of every layer");
  CLI::Option* mtp =
      command->add_flag("--mtp", options->run.mtp,
                        "also hidden states and logits of every MTP module, mtp.D.hidden "
                        "and mtp.D.logits");
  command
      ->add_option("--mtp-model", options->model.mtp_model,
                   "directory of MTP modules that come apart from the model")
      ->needs(mtp);
  command->add_option("--chunk", options->run.chunk, "rows of each sequence in one step")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--choices", options->run.choices,
                      "take experts.L and blocks.L from this safetensors file instead of choosing");
  command->add_option("--out", options->out, "safetensors file to write")->required();
  command->callback([options, &run] { run = [options] { return run_command(*options); }; });
}

}  // namespace m3
