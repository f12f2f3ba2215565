// `m3 logits`: the model's answers as numbers, for comparing.
#include <CLI/CLI.hpp>

#include "apps/commands.h"
#include "apps/logits_run.h"
#include "apps/media_notes.h"
#include "apps/model_options.h"
#include "apps/option_checks.h"
#include "apps/pixel_file.h"
#include "apps/progress_bar.h"
#include "base/file.h"
#include "checkpoint/safetensors.h"

namespace m3 {
namespace {

struct LogitsOptions {
  ModelOptions model;
  LogitsRun run;
  std::vector<std::string> ids_files;
  std::string rows;
  std::string text_file;
  std::vector<std::string> images;
  std::vector<std::string> videos;
  double fps = 1;
  std::string out;
};

// Text as it is, control strings and all, with its media: one sequence.
Status read_text(const LogitsOptions& options, const LoadedModel& loaded, LogitsRun& run) {
  M3_TRY_STATUS(loaded.need_tokenizer("--text-file"));
  M3_TRY(const std::string text, read_text_file(options.text_file));
  std::vector<MediaInput> inputs;
  if (!options.images.empty() || !options.videos.empty()) {
    M3_TRY(const auto preprocess, preprocess_options(options.model.model, loaded.config()));
    for (const std::string& file : options.images) {
      M3_TRY(inputs.emplace_back(), read_image(file, preprocess));
    }
    for (const std::string& file : options.videos) {
      M3_TRY(inputs.emplace_back(), read_video(file, options.fps, preprocess));
    }
  }
  print_notes(inputs);
  Prompt prompt;
  prompt.add_template(text);
  MediaReader reader(*loaded.model);
  M3_TRY(run.sequences.emplace_back(), encode_prompt(prompt, inputs, *loaded.tokenizer));
  M3_TRY(auto media, encode_with_progress(reader, inputs));
  M3_TRY(run.media.emplace_back(), reader.plan(run.sequences.back(), std::move(media)));
  return {};
}

// The sequences of the run, and what they see.
Status read_sequences(const LogitsOptions& options, const LoadedModel& loaded, LogitsRun& run) {
  if (!options.text_file.empty()) M3_TRY_STATUS(read_text(options, loaded, run));
  if (options.rows.empty() && options.text_file.empty())
    for (const auto& ids : run.sequences)
      M3_TRY_STATUS(expect_no_placeholder(ids, loaded.config()));
  if (!options.rows.empty()) {
    if (run.sequences.size() > 1)
      return fail("--rows goes with one --ids-file, not {}", run.sequences.size());
    M3_TRY(run.media.emplace_back(),
           splice_pixel_file(options.rows, run.sequences[0], *loaded.model));
  }
  return {};
}

Status run_command(const LogitsOptions& options) {
  LogitsRun run = options.run;
  for (const std::string& file : options.ids_files) {
    M3_TRY(run.sequences.emplace_back(), read_ids_file(file));
  }
  ModelOptions model = options.model;
  model.mtp = run.mtp;
  M3_TRY(const auto loaded, load_model(model));
  M3_TRY_STATUS(read_sequences(options, *loaded, run));
  ProgressBar bar("computing logits", "rows");
  M3_TRY(const auto recorder, m3::run_logits(*loaded->model, run, bar.callback()));
  auto tensors = recorder->tensors();
  if (!options.text_file.empty()) {
    std::vector<TokenId>& ids = run.sequences[0];
    tensors.push_back({"ids", Tensor(ids.data(), DType::kI32, {std::ssize(ids)})});
  }
  return write_safetensors(options.out, tensors);
}

}  // namespace

void add_logits(CLI::App& app, Run& run) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* command = app.add_subcommand("logits", "Write the logits of token sequences to a file");
  add_model_options(*command, options->model);
  add_lora_option(*command, options->model);
  add_cache_options(*command, options->model.cache);
  auto* input = command->add_option_group("input", "What to read; exactly one of");
  CLI::Option* ids =
      input
          ->add_option(
              "--ids-file", options->ids_files,
              "JSON list of token ids; several make one batch, and prefix the outputs 0. 1. …")
          ->allow_extra_args(false)
          ->take_all();
  CLI::Option* text =
      input->add_option("--text-file", options->text_file,
                        "text as it is, control strings and all; its ids are written, too");
  input->require_option(1);
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
  command
      ->add_option("--rows", options->rows,
                   "safetensors file with pixel_values and grid_thw, for the placeholders")
      ->needs(ids);
  for (CLI::Option* option :
       {command->add_option("--image", options->images, "picture for a ]<]image[>[; repeatable"),
        command->add_option("--video", options->videos, "clip for a ]<]video[>[; repeatable")})
    option->needs(text)->allow_extra_args(false)->take_all();
  add_fps_option(*command, options->fps);
  command->add_option("--out", options->out, "safetensors file to write")->required();
  command->callback([options, &run] { run = [options] { return run_command(*options); }; });
}

}  // namespace m3
