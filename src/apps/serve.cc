// `m3 serve`: the model behind OpenAI's and Anthropic's HTTP APIs.
#include <pthread.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <thread>

#include "apps/commands.h"
#include "apps/generation_options.h"
#include "apps/model_options.h"
#include "apps/option_checks.h"
#include "apps/progress_bar.h"
#include "apps/serve_options.h"
#include "apps/speculative_options.h"
#include "base/file.h"
#include "base/machine.h"
#include "model/cache.h"
#include "server/api.h"
#include "server/engine_host.h"
#include "server/http.h"
#include "text/thinking.h"

namespace m3 {
namespace {

sigset_t stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

// Waits for SIGTERM or Ctrl-C. While the model is loaded, either ends the program; later the first
// lets open answers end, and the second does not. To be made before any other thread, which all
// leave these signals alone then.
class StopSignals {
 public:
  explicit StopSignals(double seconds) : seconds_(seconds) {
    const sigset_t signals = stop_signals();
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    thread_ = std::thread([this] { wait(); });
  }
  ~StopSignals() {
    ended_ = true;
    ::pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
  }

  // From here on these two are told; null: nobody is there to be told any more.
  void tell(HttpServer* http, EngineHost* host) {
    const std::lock_guard lock(mutex_);
    http_ = http;
    host_ = host;
  }

 private:
  void wait() {
    const sigset_t signals = stop_signals();
    int signal = 0;
    ::sigwait(&signals, &signal);
    if (ended_) return;
    const std::lock_guard lock(mutex_);
    if (http_ == nullptr) std::_Exit(128 + signal);
    std::fprintf(stderr, "m3 serve: stopping; %ld open requests have %.0f s to end\n",
                 static_cast<long>(http_->open_requests()), seconds_);
    host_->drain();
    http_->drain();
    const double end = steady_seconds() + seconds_;
    const timespec moment{.tv_sec = 0, .tv_nsec = 20'000'000};
    while (!ended_ && http_->open_requests() > 0 && steady_seconds() < end)
      if (::sigtimedwait(&signals, nullptr, &moment) > 0) break;
    http_->close();
  }

  const double seconds_;
  std::atomic<bool> ended_{false};
  std::mutex mutex_;  // of what follows
  HttpServer* http_ = nullptr;
  EngineHost* host_ = nullptr;
  std::thread thread_;
};

// What the memory is for, before any of it is used; nothing grows beyond it but what requests hold.
void print_memory_plan(const ServeOptions& o, const LoadedModel& loaded, const Engine& engine,
                       const Drafter* drafter) {
  const Config& config = loaded.config();
  const std::int64_t page = cache_page_bytes(loaded, drafter);
  const std::int64_t pages = engine.context_tokens() / config.block_tokens;
  const auto bytes = [](std::int64_t n) { return quantity(static_cast<double>(n), "B"); };
  std::fprintf(stderr,
               "  memory  weights %s; cache %s: %ld tokens in %ld pages; requests up to %s\n",
               bytes(loaded.weight_bytes).c_str(), bytes(pages * page).c_str(),
               static_cast<long>(engine.context_tokens()), static_cast<long>(pages),
               bytes(o.http.bodies_bytes_max).c_str());
}

void print_banner(const ServeOptions& o, const LoadedModel& loaded, const Engine& engine,
                  const Drafter* drafter, const ServedModel& model, int port) {
  const std::string address = fmt::format("http://{}:{}", o.http.host, port);
  std::fprintf(stderr, "m3 serve: %s at %s\n", model.names.front().c_str(), address.c_str());
  std::fprintf(stderr, "  model   %s, %s%s%s backend, %d threads\n", o.model.model.c_str(),
               std::string(loaded.backend->name()).c_str(),
               loaded.backend->isa().empty() ? "" : " ", std::string(loaded.backend->isa()).c_str(),
               loaded.pool.threads());
  print_memory_plan(o, loaded, engine, drafter);
  std::fprintf(stderr,
               "  limits  %ld tokens a request, %ld sequences at a time, %ld more may wait; %s\n",
               static_cast<long>(model.context_tokens), static_cast<long>(o.sequences),
               static_cast<long>(o.waiting_max),
               o.server.api_keys.empty() ? "no API key" : "with an API key");
  if (!loaded.random_weights.empty())
    std::fprintf(stderr, "  note    %s\n", loaded.random_weights.c_str());
  if (model.tokenizer == nullptr)
    std::fprintf(stderr, "  note    no tokenizer.json: only /v1/completions of token ids\n");
  const char* body =
      model.tokenizer != nullptr
          ? R"('{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}')"
          : R"('{"prompt": [1, 2, 3], "max_tokens": 16}')";
  std::fprintf(stderr, "try: curl %s/v1/%s -H 'Content-Type: application/json' -d %s\n",
               address.c_str(), model.tokenizer != nullptr ? "chat/completions" : "completions",
               body);
}

ServedModel served_model(const ServeOptions& o, const LoadedModel& loaded,
                         const Vocabulary* vocabulary, std::int64_t context) {
  const Config& config = loaded.config();
  ServedModel model{.names = o.names, .config = &config, .vocabulary = vocabulary};
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
  StopSignals stop(o.shutdown_seconds);
  M3_TRY(const ModelOptions model_options, with_draft_model(o.model, o.speculative));
  M3_TRY(const auto loaded, load_model(model_options));
  M3_TRY(auto drafter, make_drafter(o.speculative, *loaded));
  const Drafter* drafter_view = drafter.get();
  M3_TRY(const std::int64_t cache_tokens, cache_tokens_of(o, *loaded, drafter.get()));
  M3_TRY(const auto engine, Engine::create(*loaded->model,
                                           {.context_tokens = cache_tokens,
                                            .step_rows = o.step_rows,
                                            .sequences = o.sequences,
                                            .draft_tokens = o.speculative.draft_tokens,
                                            .prefill_seconds = o.prefill_seconds},
                                           std::move(drafter)));
  std::optional<Vocabulary> vocabulary;
  if (loaded->tokenizer) vocabulary.emplace(*loaded->tokenizer);
  MediaReader media(*loaded->model);
  ServedModel model =
      served_model(o, *loaded, vocabulary ? &*vocabulary : nullptr, engine->context_tokens());
  if (loaded->model->weights().vision) {
    M3_TRY(model.preprocess, preprocess_options(o.model.model, loaded->config()));
  }

  EngineHost host(*engine, media, {.sequences = o.sequences, .waiting_max = o.waiting_max});
  const LogLine log = [&o](const Json& line) {
    if (!o.quiet) std::fprintf(stderr, "%s\n", json_text(line).c_str());
  };
  Api api(host, model, o.server, log);
  o.http.refusal = &Api::refusal;
  M3_TRY(const auto http,
         HttpServer::create(o.http, [&api](HttpRequest request, std::shared_ptr<HttpReply> reply) {
           api.handle(std::move(request), std::move(reply));
         }));
  print_banner(o, *loaded, *engine, drafter_view, model, http->port());
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
