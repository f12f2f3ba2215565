// Options of `m3 serve`, under the names that users of vLLM and llama-server know.
#pragma once

#include "apps/model_options.h"
#include "apps/speculative_options.h"
#include "server/http.h"
#include "server/server_options.h"

namespace m3 {

struct ServeOptions {
  ModelOptions model;
  SpeculativeOptions speculative;
  HttpOptions http;
  ServerOptions server;
  std::vector<std::string> names;
  std::vector<ServedAdapter> adapters;
  std::optional<std::int64_t> context_per_request;
  std::optional<std::int64_t> cache_tokens;  // of all requests together
  std::int64_t sequences = 16;
  std::optional<std::int64_t> waiting_max;  // absent: a quarter of the sequences
  std::int64_t step_rows = 2048;
  double prefill_seconds = 0.5;
  double shutdown_seconds = 30;
  bool quiet = false;

  // As typed.
  std::vector<std::string> keys, lora_modules;
  std::string key_file, template_kwargs, media_limits;
  std::int64_t body_mb = 64;
  // What other servers need to be told, and this one does anyway.
  std::vector<std::string> known_values;
  bool known_flags = false;
};

void add_serve_options(CLI::App& command, ServeOptions& options);

// Reads what the options name: the file of keys, JSON texts. Errors: those.
Status finish_serve_options(ServeOptions& options);

}  // namespace m3
