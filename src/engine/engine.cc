#include "engine/engine.h"

#include <algorithm>
#include <iterator>

namespace m3 {

using std::ssize;

// Of a prompt whose tokens are scored: rows whose logits are computed at once.
constexpr std::int64_t kScoredRows = 32;

Result<std::unique_ptr<Engine>> Engine::create(const Model& model, const EngineOptions& options,
                                               std::unique_ptr<Drafter> drafter) {
  if (options.draft_tokens < 0 || options.draft_tokens > kDraftTokensMax)
    return fail("{} tokens are to be drafted for a step, expected 0 to {}", options.draft_tokens,
                kDraftTokensMax);
  const std::int64_t pages = pages_of(options.context_tokens, model.config().block_tokens);
  M3_TRY(PagedCache cache,
         PagedCache::create(model.config(), model.cache_format(), pages, model.mtp_modules()));
  if (drafter) M3_TRY_STATUS(drafter->attach(cache, options.step_rows, options.sequences));
  return std::unique_ptr<Engine>(new Engine(model, std::move(cache), options, std::move(drafter)));
}

Engine::Engine(const Model& model, PagedCache cache, const EngineOptions& options,
               std::unique_ptr<Drafter> drafter)
    : model_(model),
      cache_(std::move(cache)),
      options_(options),
      table_({.pages = cache_.pages(),
              .page_tokens = cache_.page_tokens(),
              .step_rows = options.step_rows,
              .sequences = options.sequences}),
      pace_(options.prefill_seconds, std::min(cache_.page_tokens(), options.step_rows),
            options.step_rows),
      arena_(model.config(), options.step_rows,
             std::max(kScoredRows, options.sequences * (1 + (drafter ? options.draft_tokens : 0)))),
      speculation_(std::move(drafter), options.draft_tokens, options.seconds),
      allowed_(static_cast<std::size_t>((model.config().vocab + 63) / 64)) {}

Status Engine::check(const Request& request) const {
  const Config& config = model_.config();
  if (request.prompt.empty()) return fail("the prompt is empty: give at least one token");
  if (request.max_tokens < 1)
    return fail("max_tokens is {}, expected at least 1", request.max_tokens);
  for (std::int64_t i = 0; i < ssize(request.prompt); ++i) {
    const std::int32_t id = request.prompt[static_cast<std::size_t>(i)];
    if (id < 0 || id >= config.vocab)
      return fail("prompt token {} is {}, outside the vocabulary of {} ids (0 to {})", i, id,
                  config.vocab, config.vocab - 1);
  }
  if (request.max_tokens > config.positions_max - ssize(request.prompt))
    return fail(
        "the prompt has {} tokens and up to {} are to follow, but the model has only {} positions",
        ssize(request.prompt), request.max_tokens, config.positions_max);
  // The answer's last token is never stored, since nobody reads it.
  if (ssize(request.prompt) + request.max_tokens - 1 > context_tokens())
    return fail(
        "the prompt has {} tokens and up to {} are to follow, but the cache holds {}: shorten the "
        "prompt, lower --max-tokens or raise --context",
        ssize(request.prompt), request.max_tokens, context_tokens());
  if (request.adapter < -1 || request.adapter >= options_.adapters)
    return fail("adapter {} is asked for, the model has {}", request.adapter, options_.adapters);
  for (const auto& word : request.bad_words)
    if (word.empty() ||
        !std::ranges::all_of(word, [&](std::int32_t id) { return id >= 0 && id < config.vocab; }))
      return fail("bad_words holds a word without tokens, or an id outside the vocabulary");
  return check_sampling(request.sampling, config.vocab);
}

Result<SequenceId> Engine::start(Request request, std::unique_ptr<TokenConstraint> constraint) {
  M3_TRY_STATUS(check(request));
  const SequenceId id = table_.add(std::move(request), std::move(constraint));
  speculation_.begin(id);
  return id;
}

void Engine::release(SequenceId id) {
  table_.erase(id);
  speculation_.forget(id);
}

bool Engine::idle() const {
  return table_.count(Sequence::State::kWaiting) == 0 &&
         table_.count(Sequence::State::kRunning) == 0;
}

}  // namespace m3
