#include "engine/engine.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace m3 {

using std::ssize;
Result<std::unique_ptr<Engine>> Engine::create(const Model& model, const EngineOptions& options) {
  const std::int64_t pages = pages_of(options.context_tokens, model.config().block_tokens);
  M3_TRY(PagedCache cache, PagedCache::create(model.config(), model.backend().cache_dtype(), pages,
                                              model.mtp_modules()));
  return std::unique_ptr<Engine>(new Engine(model, std::move(cache), options));
}

Engine::Engine(const Model& model, PagedCache cache, const EngineOptions& options)
    : model_(model),
      cache_(std::move(cache)),
      pages_(cache_.pages()),
      options_(options),
      arena_(model.config(), options.step_rows, options.sequences) {}

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
  begin(sequences_[id], std::move(request));
  return id;
}

Status Engine::resume(SequenceId id, Request request) {
  M3_TRY_STATUS(check(request));
  begin(sequences_.at(id), std::move(request));
  return {};
}

void Engine::begin(Sequence& s, Request request) {
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

// Admits in order of arrival, each with all the pages that it can ever need: whoever runs can
// finish, and check() has seen to it that one alone always fits.
void Engine::admit() {
  auto running = std::count_if(sequences_.begin(), sequences_.end(),
                               [](const auto& entry) { return entry.second.running; });
  for (auto& [id, s] : sequences_) {
    if (!s.waiting) continue;
    if (running >= options_.sequences) return;
    const std::int64_t missing = std::max<std::int64_t>(0, pages_for(s.request) - ssize(s.pages));
    reclaim(missing, s);
    if (!pages_.allocate(missing, s.pages)) return;
    s.waiting = false;
    s.running = true;
    ++running;
  }
}

// Rows of this step: one for every sequence that decodes first, then as much of the prompts as
// fits.
std::vector<SequenceId> Engine::compose(Batch& batch) const {
  std::vector<SequenceId> members;
  for (const bool decoding : {true, false}) {
    for (const auto& [id, s] : sequences_) {
      const std::int64_t missing = ssize(s.tokens) - s.cached;
      if (!s.running || (missing == 1) != decoding) continue;
      const std::int64_t rows = std::min(missing, options_.step_rows - batch.rows());
      if (rows == 0) return members;
      const std::span<const std::int32_t> tokens(s.tokens);
      const auto pages = std::span(s.pages).first(
          static_cast<std::size_t>(pages_of(s.cached + rows, cache_.page_tokens())));
      s.request.media.add_to(batch, s.cached, rows, batch.rows());
      batch.add_sequence(
          tokens.subspan(static_cast<std::size_t>(s.cached), static_cast<std::size_t>(rows)),
          s.cached, pages, /*all_outputs=*/false);
      if (rows == missing) batch.want_last();
      members.push_back(id);
    }
  }
  return members;
}

std::span<const TokenEvent> Engine::step() {
  events_.clear();
  admit();
  Batch batch;
  const std::vector<SequenceId> members = compose(batch);
  if (members.empty()) return events_;
  const Tensor logits = model_.forward(batch, cache_, arena_);
  std::size_t row = 0, output = 0;
  for (const SequenceId id : members) {
    Sequence& s = sequences_.at(id);
    const std::size_t first = row;
    const std::int32_t member = batch.sequences[first];
    while (row < batch.sequences.size() && batch.sequences[row] == member) ++row;
    const bool sampled =
        output < batch.outputs.size() && static_cast<std::size_t>(batch.outputs[output]) < row;
    s.cached += static_cast<std::int64_t>(row - first);
    if (sampled) advance(id, logits.row<float>(static_cast<std::int64_t>(output++)));
  }
  return events_;
}

// Samples the next token of a sequence and decides whether it was the last.
void Engine::advance(SequenceId id, const float* logits) {
  Sequence& s = sequences_.at(id);
  const auto vocab = static_cast<std::size_t>(model_.config().vocab);
  SampledToken token =
      sampler_.sample({logits, vocab}, s.request.sampling, s.history, ssize(s.tokens));
  if (token.id < 0) {
    s.running = false;
    events_.push_back({id, std::move(token), Finish::kBroken});
    return;
  }
  s.tokens.push_back(token.id);
  ++s.history.answer[token.id];
  Finish finish = Finish::kNo;
  if (std::ranges::count(s.request.stop_ids, token.id) > 0) {
    finish = Finish::kStop;
  } else if (ssize(s.tokens) - s.answer_begin >= s.request.max_tokens) {
    finish = Finish::kLength;
  }
  if (finish != Finish::kNo) s.running = false;
  events_.push_back({id, std::move(token), finish});
}

}  // namespace m3
