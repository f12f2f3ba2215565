// `m3 merge`: a model with an adapter added to its weights.
#include "model/merge.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "apps/commands.h"
#include "apps/progress_bar.h"

namespace m3 {
namespace {

struct MergeCommand {
  MergeOptions options;
  std::string format = "bf16";
  bool language_model_only = false;
  int threads = 0;
};

Status run_merge(MergeCommand command) {
  MergeOptions& o = command.options;
  o.format.reset();
  if (command.format != "stored") {
    M3_TRY(const Codec* codec, codec_named(command.format));
    o.format = codec->format;
  }
  o.vision = !command.language_model_only;
  ThreadPool pool(command.threads);
  o.pool = &pool;
  ProgressBar bar("writing " + o.directory, "B");
  o.progress = bar.callback();
  M3_TRY(const RewriteReport report, merge_lora(o));
  for (const std::string& warning : report.warnings)
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  for (const std::string& name : report.left_out)
    std::fprintf(stderr, "warning: %s is large and was not copied\n", name.c_str());
  std::printf("%s: %s of weights, from %s\n", o.directory.c_str(),
              quantity(static_cast<double>(report.bytes), "B").c_str(),
              quantity(static_cast<double>(report.source_bytes), "B").c_str());
  return {};
}

}  // namespace

void add_merge(CLI::App& app, Run& run) {
  auto c = std::make_shared<MergeCommand>();
  CLI::App* command =
      app.add_subcommand("merge", "Write a model with an adapter added to its weights");
  command
      ->add_option("MODEL", c->options.source, "directory with config.json and safetensors files")
      ->required();
  command
      ->add_option("--lora", c->options.adapter,
                   "directory with adapter_config.json and adapter_model.safetensors")
      ->required();
  command->add_option("--out", c->options.directory, "directory to write")->required();
  command
      ->add_option("--format", c->format,
                   "bf16 or f32: of the weights that change, and of those that one product reads "
                   "with them; stored: quantised again where they were")
      ->check(CLI::IsMember({"bf16", "f32", "stored"}))
      ->capture_default_str();
  command->add_flag("--language-model-only", c->language_model_only,
                    "the files may lack the vision tower");
  command->add_option("--threads", c->threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 1024));
  command->footer(
      "Sums are computed in float32 and rounded once. Weights that the adapter does not change "
      "stay "
      "as they are stored.");
  command->callback([c, &run] { run = [c] { return run_merge(*c); }; });
}

}  // namespace m3
