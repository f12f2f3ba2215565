// What every command that computes asks for, and the loaded model that it gets.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "model/lora.h"
#include "model/model.h"
#include "ops/backend.h"
#include "parallel/group.h"
#include "text/tokenizer.h"

namespace CLI {
class App;
}

namespace m3 {

class TimedBackend;

struct ModelOptions {
  std::string model;
  std::string backend = "cpu";
  std::string isa;                   // "" for the best of this machine
  int threads = 0;                   // 0: one per core
  bool language_model_only = false;  // without the vision tower
  bool mtp = false;                  // load the MTP modules, too
  std::string mtp_model;             // from this directory instead of MODEL, or ""
  std::string lora;                  // directory of an adapter, or ""
  CacheTypes cache;
  bool packed = true;  // weights in the backend's layout; else as they are stored
  bool timed = false;  // with a timer around the backend
};

// MODEL, and add_machine_options().
void add_model_options(CLI::App& command, ModelOptions& options);
// --backend, --isa, --threads and --language-model-only.
void add_machine_options(CLI::App& command, ModelOptions& options);

// --lora DIR.
void add_lora_option(CLI::App& command, ModelOptions& options);

// generation_config.json, as far as we read it (spec: chat-and-api §1.5, §10).
struct GenerationDefaults {
  std::vector<std::int32_t> eos;
  float temperature = 1.0f;
  float top_p = 0.95f;
  std::int64_t top_k = 40;
};

// A model ready to run, with everything that it refers to.
struct LoadedModel {
  ThreadPool pool;
  std::unique_ptr<Backend> backend;
  TimedBackend* timer = nullptr;  // the backend, where ModelOptions::timed asked for it
  LocalGroup group;
  std::optional<Lora> lora;  // attached to the model
  std::unique_ptr<Model> model;
  std::optional<Tokenizer> tokenizer;  // absent where the directory has no tokenizer.json
  GenerationDefaults defaults;
  std::string random_weights;  // one sentence where `m3 synth` made the weights, else empty
  double load_seconds = 0;
  std::int64_t weight_bytes = 0;  // of the files that they are in

  explicit LoadedModel(int threads) : pool(threads) {}
  const Config& config() const { return model->config(); }
  // Errors: there is none; the sentence says what to do.
  Result<const Tokenizer*> need_tokenizer(std::string_view what_for) const;
};

// Shows progress and the checkpoint's warnings on stderr.
Result<std::unique_ptr<LoadedModel>> load_model(const ModelOptions& options);

// A JSON list of ids, as `--ids-file` takes it. Errors: not a list of integers in 0..2^31-1.
Result<std::vector<std::int32_t>> read_ids_file(const std::string& path);

}  // namespace m3
