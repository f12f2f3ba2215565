// `m3 serve`: the model behind OpenAI's and Anthropic's HTTP APIs.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <ctime>

#include "apps/commands.h"
#include "apps/generation_options.h"
#include "apps/model_options.h"
#include "apps/progress_bar.h"
#include "apps/serve_banner.h"
#include "apps/serve_options.h"
#include "apps/speculative_options.h"
#include "apps/stop_signals.h"
#include "base/machine.h"
#include "model/adapters.h"
#include "model/cache.h"
#include "model/lora_files.h"
#include "server/api.h"
#include "server/engine_host.h"
#include "server/http.h"

namespace m3 {
namespace {

// Each connection is a file, and the usual 1024 are fewer than the connections that are taken.
void allow_many_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

ServedModel served_model(const ServeOptions& o, const LoadedModel& loaded,
                         const Vocabulary* vocabulary, std::int64_t context) {
  const Config& config = loaded.config();
  ServedModel model{
      .names = o.names, .adapters = o.adapters, .config = &config, .vocabulary = vocabulary};
  if (model.names.empty()) model.names.push_back(o.model.model);
  if (loaded.tokenizer) model.tokenizer = &*loaded.tokenizer;
  model.stop_ids = loaded.defaults.eos;
  model.sampling = {.temperature = loaded.defaults.temperature,
                    .top_k = loaded.defaults.top_k,
                    .top_p = loaded.defaults.top_p};
  for (std::int32_t id = 0; loaded.tokenizer && id < config.vocab; ++id)
    if (!loaded.tokenizer->has_string(id) || id == config.image_token || id == config.video_token)
      model.banned.push_back(id);
  model.context_tokens = std::min(
      {context, config.positions_max, o.context_per_request.value_or(config.positions_max)});
  model.created = static_cast<std::int64_t>(std::time(nullptr));
  model.version = M3_VERSION;
  return model;
}

// Errors: those of the files, and what requests could not be answered with one by one.
Result<Adapters> load_adapters(const ServeOptions& o, Model& model) {
  M3_TRY(const auto table, weight_table(model.config(), model.mtp_modules()));
  Adapters adapters;
  for (const auto& [name, directory] : o.adapters) {
    auto lora = load_lora(directory, table);
    if (!lora) return fail("--lora-modules {}: {}", name, lora.error().message);
    if (model.weights().vision && adapts_vision(*lora, table))
      return fail(
          "--lora-modules {}: {} adapts the vision tower, which all requests share: merge it into "
          "a model of its own (m3 merge), or serve without pictures (--language-model-only)",
          name, directory);
    adapters.add(std::move(*lora));
  }
  M3_TRY_STATUS(adapters.attach(model));
  return adapters;
}

// A longer context than the model was made for would be served wrongly.
Status check_context(const ServeOptions& o, const Config& config) {
  if (o.context_per_request.value_or(0) <= config.positions_max) return {};
  return fail("--max-model-len is {}, but this model has {} positions", *o.context_per_request,
              config.positions_max);
}

// Of all requests together: what was asked for, or a quarter of the free memory.
Result<std::int64_t> cache_tokens_of(const ServeOptions& o, const LoadedModel& loaded,
                                     const Drafter* drafter) {
  const Config& config = loaded.config();
  const std::int64_t room = cache_room_tokens(loaded, drafter);
  if (o.cache_tokens && *o.cache_tokens > room)
    return fail("--kv-cache-tokens {} takes {}, but the system has {} left", *o.cache_tokens,
                quantity(static_cast<double>(*o.cache_tokens / config.block_tokens *
                                             cache_page_bytes(loaded, drafter)),
                         "B"),
                quantity(static_cast<double>(available_memory()), "B"));
  const std::int64_t most = o.sequences * config.positions_max;
  return o.cache_tokens.value_or(std::max(config.block_tokens, std::min(room / 4, most)));
}

Status run_serve(ServeOptions o) {
  M3_TRY_STATUS(finish_serve_options(o));
  std::signal(SIGPIPE, SIG_IGN);
  allow_many_files();
  StopSignals stop(o.shutdown_seconds);
  M3_TRY(const ModelOptions model_options, with_draft_model(o.model, o.speculative));
  M3_TRY(const auto loaded, load_model(model_options));
  M3_TRY_STATUS(check_context(o, loaded->config()));
  M3_TRY(const Adapters adapters, load_adapters(o, *loaded->model));
  M3_TRY(auto drafter, make_drafter(o.speculative, *loaded));
  const Drafter* drafter_view = drafter.get();
  M3_TRY(const std::int64_t cache_tokens, cache_tokens_of(o, *loaded, drafter.get()));
  M3_TRY(const auto engine, Engine::create(*loaded->model,
                                           {.context_tokens = cache_tokens,
                                            .step_rows = o.step_rows,
                                            .sequences = o.sequences,
                                            .draft_tokens = o.speculative.draft_tokens,
                                            .prefill_seconds = o.prefill_seconds,
                                            .adapters = adapters.count()},
                                           std::move(drafter)));
  std::optional<Vocabulary> vocabulary;
  if (loaded->tokenizer) vocabulary.emplace(*loaded->tokenizer);
  MediaReader media(*loaded->model);
  ServedModel model =
      served_model(o, *loaded, vocabulary ? &*vocabulary : nullptr, engine->context_tokens());
  if (loaded->model->weights().vision) {
    M3_TRY(model.preprocess, preprocess_options(o.model.model, loaded->config()));
  }

  EngineHost host(*engine, media, {.sequences = o.sequences, .waiting_max = *o.waiting_max});
  const LogLine log = [&o](const Json& line) {
    if (!o.quiet) std::fprintf(stderr, "%s\n", json_text(line).c_str());
  };
  Api api(host, model, o.server, log);
  o.http.refusal = &Api::refusal;
  M3_TRY(const auto http,
         HttpServer::create(o.http, [&api](HttpRequest request, std::shared_ptr<HttpReply> reply) {
           api.handle(std::move(request), std::move(reply));
         }));
  print_serve_banner(o, *loaded, *engine, drafter_view, model, http->port());
  stop.tell(http.get(), &host);
  http->run();
  stop.tell(nullptr, nullptr);
  host.stop();  // before the connections that its answers go to
  return {};
}

}  // namespace

void add_serve(CLI::App& app, Run& run) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App* command =
      app.add_subcommand("serve", "Serve a model over HTTP, as OpenAI and Anthropic do");
  add_serve_options(*command, *options);
  command->callback([options, &run] { run = [options] { return run_serve(*options); }; });
}

}  // namespace m3
