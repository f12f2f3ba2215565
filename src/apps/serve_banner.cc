#include "apps/serve_banner.h"

#include <cstdio>

#include "apps/generation_options.h"
#include "apps/progress_bar.h"
#include "model/cache.h"

namespace m3 {
namespace {

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

}  // namespace

void print_serve_banner(const ServeOptions& o, const LoadedModel& loaded, const Engine& engine,
                        const Drafter* drafter, const ServedModel& model, int port) {
  const std::string& host = o.http.host;
  const bool is_v6 = host.find(':') != std::string::npos;
  const std::string address =
      fmt::format("http://{}:{}", is_v6 ? fmt::format("[{}]", host) : host, port);
  std::fprintf(stderr, "m3 serve: %s at %s\n", model.names.front().c_str(), address.c_str());
  std::fprintf(stderr, "  model   %s, %s%s%s backend, %d threads\n", o.model.model.c_str(),
               std::string(loaded.backend->name()).c_str(),
               loaded.backend->isa().empty() ? "" : " ", std::string(loaded.backend->isa()).c_str(),
               loaded.pool.threads());
  for (const auto& [name, directory] : model.adapters)
    std::fprintf(stderr, "  adapter %s, %s\n", name.c_str(), directory.c_str());
  print_memory_plan(o, loaded, engine, drafter);
  std::fprintf(stderr,
               "  limits  %ld tokens a request, %ld sequences at a time, %ld more may wait; %s\n",
               static_cast<long>(model.context_tokens), static_cast<long>(o.sequences),
               static_cast<long>(*o.waiting_max),
               o.server.api_keys.empty() ? "no API key" : "with an API key");
  if (!loaded.random_weights.empty())
    std::fprintf(stderr, "  note    %s\n", loaded.random_weights.c_str());
  if (model.tokenizer == nullptr)
    std::fprintf(stderr, "  note    no tokenizer.json: only /v1/completions of token ids\n");
  const char* body =
      model.tokenizer != nullptr
          ? R"('{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}')"
          : R"('{"prompt": [1, 2, 3], "max_tokens": 16}')";
  std::fprintf(stderr, "try: curl %s/v1/%s -H 'Content-Type: application/json'%s -d %s\n",
               address.c_str(), model.tokenizer != nullptr ? "chat/completions" : "completions",
               o.server.api_keys.empty() ? "" : " -H 'Authorization: Bearer KEY'", body);
}

}  // namespace m3
