#include "apps/model_options.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/progress_bar.h"
#include "backend/registry.h"
#include "backend/timed_backend.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "engine/sampler.h"
#include "model/lora_files.h"
#include "model/weights.h"
#include "text/json.h"

namespace m3 {
namespace {

using nlohmann::json;

// Seconds from which on a pack file is worth a word.
constexpr double kLongPacking = 3;

// Every field is optional. Errors: not JSON, an end token that is no id, or a number out of range.
Result<GenerationDefaults> read_generation_defaults(const std::string& directory) {
  GenerationDefaults defaults;
  const std::string path = directory + "/generation_config.json";
  if (!std::filesystem::exists(path)) return defaults;
  M3_TRY(const std::string text, read_text_file(path));
  const json file = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!file.is_object()) return fail("{} is not a JSON object", path);
  if (const auto it = file.find("eos_token_id"); it != file.end()) {
    for (const json& id : it->is_array() ? *it : json::array({*it})) {
      if (!id.is_number_integer() || id < 0 || id > 0x7fffffff)
        return fail("{}: eos_token_id must be an id or a list of ids", path);
      defaults.eos.push_back(id.get<std::int32_t>());
    }
  }
  const auto number = [&](const char* key, auto& value) -> Status {
    const auto it = file.find(key);
    if (it == file.end() || it->is_null()) return {};
    if (!it->is_number()) return fail("{}: {} must be a number", path, key);
    it->get_to(value);
    return {};
  };
  M3_TRY_STATUS(number("temperature", defaults.temperature));
  M3_TRY_STATUS(number("top_p", defaults.top_p));
  M3_TRY_STATUS(number("top_k", defaults.top_k));
  const SamplingParams sampling{
      .temperature = defaults.temperature, .top_k = defaults.top_k, .top_p = defaults.top_p};
  if (const Status status = check_sampling(sampling, /*vocab=*/0); !status)
    return fail("{}: {}", path, status.error().message);
  return defaults;
}

// Puts a timer around the backend.
void add_timer(LoadedModel& loaded) {
  auto timed = std::make_unique<TimedBackend>(std::move(loaded.backend));
  loaded.timer = timed.get();
  loaded.backend = std::move(timed);
}

std::int64_t weight_file_bytes(const std::string& directory) {
  std::int64_t bytes = 0;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(directory, error))
    if (file.path().extension() == ".safetensors")
      bytes += static_cast<std::int64_t>(file.file_size(error));
  return bytes;
}

Status add_lora(const std::string& directory, LoadedModel& loaded) {
  M3_TRY(const auto table, weight_table(loaded.config(), loaded.model->mtp_modules()));
  M3_TRY(loaded.lora, load_lora(directory, table));
  return attach(*loaded.lora, *loaded.model);
}

void show_warnings(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings)
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
}

}  // namespace

void add_model_options(CLI::App& command, ModelOptions& options) {
  command.add_option("MODEL", options.model, "directory with config.json and safetensors files")
      ->required();
  add_machine_options(command, options);
}

void add_machine_options(CLI::App& command, ModelOptions& options) {
  command.add_option("--backend", options.backend, "cpu, or reference (slow, the definition)")
      ->capture_default_str();
  command.add_option(
      "--isa", options.isa,
      "instruction set of the cpu backend: amx, avx512-bf16, avx512-vnni, avx512, avx2 or x86-64 "
      "(default: the fastest that this machine has, which on Intel without AMX is avx512-vnni); "
      "amx-twin computes the bits of "
      "amx on any machine, slowly, for testing");
  command.add_option("--threads", options.threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 1024));
  command.add_flag("--language-model-only", options.language_model_only,
                   "do without the vision tower: pictures and clips are refused");
}

void add_lora_option(CLI::App& command, ModelOptions& options) {
  command.add_option("--lora", options.lora,
                     "adapter to add to the model: a directory with adapter_config.json and "
                     "adapter_model.safetensors, as m3 train and peft write them");
}

Result<const Tokenizer*> LoadedModel::need_tokenizer(std::string_view what_for) const {
  if (tokenizer) return &*tokenizer;
  return fail(
      "{} needs tokenizer.json in the model's directory; without it give ids with --ids-file",
      what_for);
}

Result<std::unique_ptr<LoadedModel>> load_model(const ModelOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  auto loaded = std::make_unique<LoadedModel>(options.threads);
  M3_TRY(loaded->backend, make_backend(options.backend, options.isa, loaded->pool));
  if (options.timed) add_timer(*loaded);
  M3_TRY(Config config, load_config(options.model));
  M3_TRY(auto checkpoint, Checkpoint::open(options.model));
  show_warnings(config.warnings);
  show_warnings(checkpoint->warnings());
  loaded->random_weights = checkpoint->synthetic();
  LoadOptions parts{.mtp = options.mtp,
                    .vision = !options.language_model_only,
                    .backend = options.packed ? loaded->backend.get() : nullptr};
  if (!options.mtp_model.empty()) {
    M3_TRY(parts.standalone_mtp, open_mtp(options.mtp_model, config));
    config.mtp_chain = parts.standalone_mtp->config.mtp_chain;
    show_warnings(parts.standalone_mtp->config.warnings);
    show_warnings(parts.standalone_mtp->checkpoint->warnings());
  }
  ProgressBar bar("loading " + options.model, "weights");
  ProgressBar packing_bar("packing weights for " + std::string(loaded->backend->isa()), "B");
  ProgressBar reading_bar("reading packed weights", "B");
  parts.packing = packing_bar.callback();
  parts.reading_pack = reading_bar.callback();
  M3_TRY(Weights weights, load_weights(config, checkpoint, bar.callback(), &loaded->pool, parts));
  show_warnings(weights.warnings);
  if (weights.packing_seconds > kLongPacking)
    std::fprintf(stderr, "note: weights were packed in %.0f s; `m3 pack %s` saves that\n",
                 weights.packing_seconds, options.model.c_str());
  M3_TRY(loaded->defaults, read_generation_defaults(options.model));
  if (std::filesystem::exists(options.model + "/tokenizer.json")) {
    M3_TRY(loaded->tokenizer, Tokenizer::load(options.model));
  }
  loaded->model = std::make_unique<Model>(std::move(config), std::move(weights), *loaded->backend,
                                          loaded->group, options.cache);
  if (!options.lora.empty()) M3_TRY_STATUS(add_lora(options.lora, *loaded));
  loaded->weight_bytes = weight_file_bytes(options.model);
  if (loaded->timer) loaded->timer->set_head(&loaded->model->weights().head);
  loaded->load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return loaded;
}

Result<std::vector<std::int32_t>> read_ids_file(const std::string& path) {
  M3_TRY(const std::string text, read_text_file(path));
  const Result<Json> list = parse_json(text);
  if (!list || !list->is_array()) return fail("{} is not a JSON list of token ids", path);
  std::vector<std::int32_t> ids;
  for (const Json& id : *list) {
    if (!id.is_number_integer() || id < 0 || id > 0x7fffffff)
      return fail("{}: entry {} is {}, expected a token id (0 or more)", path, ids.size(),
                  id.is_number() ? python_json(id) : kind_name(id));
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

}  // namespace m3
