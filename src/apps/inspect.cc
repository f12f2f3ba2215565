// `m3 inspect`: what is in a model and what it needs, from the headers alone.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "apps/commands.h"
#include "apps/option_checks.h"
#include "checkpoint/checkpoint.h"
#include "model/config.h"
#include "model/inspect.h"

namespace m3 {
namespace {

struct InspectOptions {
  std::string model;
  std::int64_t context = 0;
  CacheTypes cache;
  bool language_model_only = false;
  bool json = false;
};

Status run_inspect(const InspectOptions& options) {
  M3_TRY(const Config config, load_config(options.model));
  M3_TRY(const auto checkpoint, Checkpoint::open(options.model));
  M3_TRY(const ModelSummary summary, summarise(config, checkpoint.get(),
                                               {.tokens = options.context,
                                                .cache = options.cache,
                                                .vision = !options.language_model_only}));
  const std::string text =
      options.json ? summary_json(config, summary) : summary_text(config, summary);
  std::printf("%s%s", text.c_str(), text.ends_with('\n') ? "" : "\n");
  return {};
}

}  // namespace

void add_inspect(CLI::App& app, Run& run) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command =
      app.add_subcommand("inspect", "Show a model's layers, types, sizes and memory needs");
  command->add_option("MODEL", options->model, "directory with config.json and safetensors files")
      ->required();
  command
      ->add_option("--context", options->context,
                   "plan the memory for this many tokens (default: all of the model's positions)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  add_cache_options(*command, options->cache);
  command->add_flag("--language-model-only", options->language_model_only,
                    "the files may lack the vision tower");
  command->add_flag("--json", options->json, "print one JSON object");
  command->callback([options, &run] { run = [options] { return run_inspect(*options); }; });
}

}  // namespace m3
