#include "engine/engine.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace m3 {

using std::ssize;

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
      pages_(cache_.pages()),
      options_(options),
      arena_(model.config(), options.step_rows,
             options.sequences * (1 + (drafter ? options.draft_tokens : 0))),
      speculation_(std::move(drafter), options.draft_tokens, options.seconds) {}

// The answer's last token is never stored, since nobody reads it.
std::int64_t Engine::pages_for(const Request& request) const {
  return pages_of(ssize(request.prompt) + request.max_tokens - 1, cache_.page_tokens());
}

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
  if (pages_for(request) > pages_.pages())
    return fail(
        "the prompt has {} tokens and up to {} are to follow, but the cache holds {}: shorten the "
        "prompt, lower --max-tokens or raise --context",
        ssize(request.prompt), request.max_tokens, context_tokens());
  return check_sampling(request.sampling, config.vocab);
}

Result<SequenceId> Engine::start(Request request) {
  M3_TRY_STATUS(check(request));
  const SequenceId id = next_id_++;
  begin(id, std::move(request));
  return id;
}

Status Engine::resume(SequenceId id, Request request) {
  M3_TRY_STATUS(check(request));
  begin(id, std::move(request));
  return {};
}

void Engine::begin(SequenceId id, Request request) {
  Sequence& s = sequences_[id];
  const auto same = std::mismatch(s.tokens.begin(), s.tokens.begin() + s.cached,
                                  request.prompt.begin(), request.prompt.end());
  // The last token of the prompt is always computed: its logits give the first token of the answer.
  s.cached = std::min(same.first - s.tokens.begin(), ssize(request.prompt) - 1);
  s.cached = s.request.media.common(request.media, s.cached);
  s.tokens = request.prompt;
  s.answer_begin = ssize(s.tokens);
  s.history = {};
  for (const std::int32_t token : s.tokens) ++s.history.prompt[token];
  pages_.release(s.pages, std::min(ssize(s.pages), pages_of(s.cached, cache_.page_tokens())));
  s.request = std::move(request);
  s.running = false;
  s.waiting = true;
  speculation_.begin(id);
}

void Engine::stop(SequenceId id) {
  Sequence& s = sequences_.at(id);
  s.running = s.waiting = false;
}

void Engine::release(SequenceId id) {
  const auto found = sequences_.find(id);
  M3_CHECK(found != sequences_.end(), "no sequence {}", id);
  pages_.release(found->second.pages);
  sequences_.erase(found);
  speculation_.forget(id);
}

bool Engine::idle() const {
  return std::none_of(sequences_.begin(), sequences_.end(), [](const auto& entry) {
    return entry.second.running || entry.second.waiting;
  });
}

// Takes pages back from sequences that do not run, oldest first, until `count` are free or none is
// left: what they hold is only there to save work should they go on.
void Engine::reclaim(std::int64_t count, const Sequence& keep) {
  for (auto& [id, s] : sequences_) {
    if (pages_.free_pages() >= count) return;
    if (s.running || &s == &keep) continue;
    pages_.release(s.pages);
    s.cached = 0;
  }
}

std::int64_t Engine::running() const {
  return std::count_if(sequences_.begin(), sequences_.end(),
                       [](const auto& entry) { return entry.second.running; });
}

// Admits in order of arrival, each with all the pages that it can ever need: whoever runs can
// finish, and check() has seen to it that one alone always fits.
void Engine::admit() {
  std::int64_t count = running();
  for (auto& [id, s] : sequences_) {
    if (!s.waiting) continue;
    if (count >= options_.sequences) return;
    const std::int64_t missing = std::max<std::int64_t>(0, pages_for(s.request) - ssize(s.pages));
    reclaim(missing, s);
    if (!pages_.allocate(missing, s.pages)) return;
    s.waiting = false;
    s.running = true;
    ++count;
  }
}

}  // namespace m3
