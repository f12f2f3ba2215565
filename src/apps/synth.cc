// `m3 synth` and `m3 init`: random models in the released layout.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "apps/commands.h"
#include "apps/option_checks.h"
#include "apps/progress_bar.h"
#include "base/file.h"
#include "model/eagle3_checkpoint.h"
#include "model/presets.h"
#include "model/synth.h"

namespace m3 {
namespace {

namespace fs = std::filesystem;

struct SynthCommand {
  std::string config;
  std::string preset;
  SliceOptions slice;
  std::string format;
  std::string out;
  std::uint64_t seed = 0;
  int threads = 0;
  bool mtp_only = false;
  SynthDraw draw = SynthDraw::kForTests;
};

Result<std::string> config_of(const SynthCommand& command) {
  if (!command.config.empty()) return read_text_file(command.config);
  if (command.preset == "nano") return nano_config();
  return slice_config(command.slice);
}

// The small tokenizer that goes with nano's vocabulary.
Status copy_tokenizer(const std::string& directory) {
  const fs::path source = fs::path(M3_DATA_DIR) / "tokenizer";
  std::error_code error;
  for (const auto& file : fs::directory_iterator(source, error)) {
    fs::copy_file(file.path(), directory / file.path().filename(),
                  fs::copy_options::overwrite_existing, error);
    if (error) break;
  }
  if (error)
    return fail("cannot copy the tokenizer from {} to {}: {}", source.string(), directory,
                error.message());
  return {};
}

Status write_model(const SynthCommand& command) {
  SynthOptions options{.directory = command.out,
                       .seed = command.seed,
                       .draw = command.draw,
                       .mtp_only = command.mtp_only};
  M3_TRY(options.config_json, config_of(command));
  if (command.draw == SynthDraw::kForTraining) options.format = Format::kBF16;
  if (!command.format.empty()) {
    M3_TRY(const Codec* codec, codec_named(command.format));
    options.format = codec->format;
  }
  ThreadPool pool(command.threads);
  options.pool = &pool;
  ProgressBar bar("writing " + command.out, "B");
  options.progress = bar.callback();
  M3_TRY_STATUS(synth_checkpoint(options));
  if (command.preset == "nano" && !command.mtp_only) M3_TRY_STATUS(copy_tokenizer(command.out));
  return {};
}

Status run_synth(const SynthCommand& command) {
  const bool draft_model = command.preset == "eagle3-nano";
  M3_TRY_STATUS(draft_model ? synth_eagle3_nano(command.out, command.seed) : write_model(command));
  std::printf("%s: random weights of seed %llu\n", command.out.c_str(),
              static_cast<unsigned long long>(command.seed));
  return {};
}

// Options that would be left aside in silence.
void refuse_unused(const CLI::App& command, const SynthCommand& c) {
  const auto refuse = [&](std::initializer_list<const char*> options, const char* why) {
    for (const char* option : options)
      if (command.count(option) > 0) throw CLI::ValidationError(option, why);
  };
  if (c.preset != "slice")
    refuse({"--dense-layers", "--moe-layers", "--experts", "--vision-layers", "--vocab"},
           "goes with --preset slice alone");
  if (c.preset == "eagle3-nano")
    refuse({"--format", "--mtp-only"}, "does not go with --preset eagle3-nano");
}

// --seed, --threads and --out.
void add_output_options(CLI::App& command, SynthCommand& c) {
  command.add_option("--seed", c.seed, "any number")->check(whole_number())->capture_default_str();
  command.add_option("--threads", c.threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 4096));
  command.add_option("--out", c.out, "directory to write; made where it does not exist")
      ->required();
}

}  // namespace

void add_synth(CLI::App& app, Run& run) {
  auto c = std::make_shared<SynthCommand>();
  CLI::App* command =
      app.add_subcommand("synth", "Write a model with random weights, the same from the same seed");
  auto* source = command->add_option_group("model", "What to write; exactly one of");
  source->add_option("--config", c->config, "config.json of any MiniMax-M3");
  source
      ->add_option(
          "--preset", c->preset,
          "nano: every feature, 8 MB, with a tokenizer; slice: a few layers of the released "
          "width, without a tokenizer; eagle3-nano: an EAGLE3 draft model for nano")
      ->check(CLI::IsMember({"nano", "slice", "eagle3-nano"}));
  source->require_option(1);
  command->add_option("--dense-layers", c->slice.dense_layers, "of a slice: dense layers")
      ->capture_default_str();
  command->add_option("--moe-layers", c->slice.moe_layers, "of a slice: sparse MoE layers")
      ->capture_default_str();
  command->add_option("--experts", c->slice.experts, "of a slice: experts of each MoE layer")
      ->capture_default_str();
  command
      ->add_option("--vision-layers", c->slice.vision_layers,
                   "of a slice: layers of the vision tower; 0: text only")
      ->capture_default_str();
  command->add_option("--vocab", c->slice.vocab, "of a slice: vocabulary")->capture_default_str();
  command
      ->add_option(
          "--format", c->format,
          "of the linear layers: bf16, mxfp8, or of all but the indexer's: mxfp4, nvfp4 or "
          "int8 (default: what the config says)")
      ->check(CLI::IsMember({"bf16", "mxfp8", "mxfp4", "nvfp4", "int8"}));
  command->add_flag("--mtp-only", c->mtp_only,
                    "only the MTP modules, as a directory of their own for --mtp-model");
  add_output_options(*command, *c);
  command->callback([c, command, &run] {
    refuse_unused(*command, *c);
    run = [c] { return run_synth(*c); };
  });
}

void add_init(CLI::App& app, Run& run) {
  auto c = std::make_shared<SynthCommand>();
  c->draw = SynthDraw::kForTraining;
  CLI::App* command =
      app.add_subcommand("init", "Write a model to be trained from nothing, in bfloat16");
  command->add_option("--config", c->config, "config.json of any MiniMax-M3")->required();
  add_output_options(*command, *c);
  command->footer(
      "Embedding N(0, 1), linears N(0, 0.02), head N(0, 1/sqrt(hidden)) within three deviations,\n"
      "vision tower uniform by fan-in, norms 1, the router's bias 0. A tokenizer is not written.");
  command->callback([c, &run] { run = [c] { return run_synth(*c); }; });
}

}  // namespace m3
