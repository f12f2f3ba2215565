// The whole server with a scripted model in the place of the engine (script.h): what tests of tool
// calls, reasoning and streams talk to, since random weights do not speak the format.
//
//   m3_scripted_server MODEL [--thinking MODE]
//
// Listens at a free port of 127.0.0.1 and says where on stderr, as `m3 serve` does.
#include <pthread.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <thread>

#include "apps/model_options.h"
#include "input/media_input.h"
#include "server/api.h"
#include "server/http.h"
#include "tests/server/scripted_generator.h"

namespace m3 {
namespace {

// Scripts stand in the prompt, and are longer than what a tiny model can read.
constexpr std::int64_t kContextTokens = 1 << 20;

ServedModel served_model(const LoadedModel& loaded, const Vocabulary& vocabulary) {
  const Config& config = loaded.config();
  ServedModel model{.names = {"scripted"},
                    .config = &config,
                    .tokenizer = &*loaded.tokenizer,
                    .vocabulary = &vocabulary};
  model.stop_ids = loaded.defaults.eos;
  model.context_tokens = kContextTokens;
  model.created = static_cast<std::int64_t>(std::time(nullptr));
  model.version = "scripted";
  return model;
}

// Until SIGTERM.
void serve(HttpServer& http, ScriptedGenerator& generator, sigset_t signals) {
  std::fprintf(stderr, "m3 serve: scripted at http://127.0.0.1:%d\n", http.port());
  std::thread network([&] { http.run(); });
  int signal = 0;
  ::sigwait(&signals, &signal);
  http.close();
  network.join();
  generator.stop();
}

Status run(const std::string& directory, const ServerOptions& options) {
  M3_TRY(const auto loaded, load_model({.model = directory, .threads = 1}));
  M3_TRY([[maybe_unused]] const Tokenizer* tokenizer, loaded->need_tokenizer("a script"));
  const Vocabulary vocabulary(*loaded->tokenizer);
  ServedModel model = served_model(*loaded, vocabulary);
  M3_TRY(model.preprocess, preprocess_options(directory, loaded->config()));

  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  ScriptedGenerator generator(model);
  Api api(generator, model, options, [](const Json&) {});
  HttpOptions http_options;
  http_options.port = 0;
  http_options.refusal = &Api::refusal;
  M3_TRY(const auto http, HttpServer::create(http_options, [&](HttpRequest request, auto reply) {
           api.handle(std::move(request), std::move(reply));
         }));
  serve(*http, generator, signals);
  return {};
}

}  // namespace
}  // namespace m3

int main(int count, char** words) {
  m3::ServerOptions options;
  if (count == 4 && std::strcmp(words[2], "--thinking") == 0) options.thinking_mode = words[3];
  if (count != 2 && !options.thinking_mode) {
    std::fprintf(stderr, "usage: m3_scripted_server MODEL [--thinking MODE]\n");
    return 2;
  }
  const m3::Status status = m3::run(words[1], options);
  if (!status) std::fprintf(stderr, "m3_scripted_server: %s\n", status.error().message.c_str());
  return status ? 0 : 1;
}
