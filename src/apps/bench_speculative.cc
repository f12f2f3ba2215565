#include "apps/bench_speculative.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <utility>

#include "apps/expert_counter.h"
#include "apps/progress_bar.h"
#include "base/check.h"
#include "base/machine.h"
#include "base/random.h"
#include "engine/engine.h"
#include "engine/mtp_chain_drafter.h"
#include "engine/ngram_drafter.h"
#include "engine/scripted_drafter.h"

namespace m3 {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr std::uint64_t kSeed = 21;

bool is_scripted(const SpeculativeCase& c) {
  return c.source == DraftSource::kRight || c.source == DraftSource::kWrong;
}

// What the steps of an engine have to read, counted beside a drafter that watches no step itself.
class CountingDrafter final : public Drafter {
 public:
  CountingDrafter(const Model& model, std::unique_ptr<Drafter> drafter)
      : model_(model), experts_(model), drafter_(std::move(drafter)) {
    M3_CHECK(drafter_->watch() == nullptr, "the drafter watches the steps that are counted");
  }

  void reset() { counted_ = {}; }
  const DecodeSample& counted() const { return counted_; }

  std::int64_t page_bytes() const override { return drafter_->page_bytes(); }
  Status attach(const PagedCache& cache, std::int64_t rows, std::int64_t sequences) override {
    return drafter_->attach(cache, rows, sequences);
  }
  bool needs_final_hidden() const override { return drafter_->needs_final_hidden(); }
  Watch* watch() override { return &experts_; }
  void forget(SequenceId sequence) override { drafter_->forget(sequence); }
  std::vector<Ids> draft(const VerifiedStep& step) override {
    const auto& distinct = experts_.distinct();
    const std::int64_t layers = std::count_if(distinct.begin(), distinct.end(),
                                              [](std::int64_t picked) { return picked > 0; });
    const auto picked =
        static_cast<double>(std::accumulate(distinct.begin(), distinct.end(), std::int64_t{0}));
    counted_.experts += picked / static_cast<double>(std::max<std::int64_t>(1, layers));
    counted_.work +=
        count_work(model_.config(), model_.weights(), step.batch, distinct, model_.cache_format());
    ++counted_.steps;
    return drafter_->draft(step);
  }

 private:
  const Model& model_;
  ExpertCounter experts_;
  std::unique_ptr<Drafter> drafter_;
  DecodeSample counted_;  // `experts` is still a sum
};

// For all that is decoded, at a time or one after another, so that prompts are found again.
std::int64_t cache_pages(const SpeculativeCase& c, const Config& config) {
  std::int64_t pages = 0;
  for (const Ids& prompt : c.prompts)
    pages += pages_of(std::ssize(prompt) + c.tokens, config.block_tokens);
  return is_scripted(c) ? c.batch * pages_of(c.depth + c.tokens, config.block_tokens) : pages;
}

std::vector<Request> greedy_requests(const SpeculativeCase& c) {
  std::vector<Request> requests;
  for (const Ids& prompt : c.prompts)
    requests.push_back({.prompt = prompt,
                        .max_tokens = c.tokens,
                        .sampling = {.temperature = 0},
                        .stop_ids = c.stop_ids});
  return requests;
}

Request random_request(const SpeculativeCase& c, const Config& config, std::int64_t sequence) {
  Request request{.prompt = {},
                  .max_tokens = c.tokens,
                  .sampling = {.seed = kSeed + static_cast<std::uint64_t>(sequence)},
                  .stop_ids = {}};
  // Whole pages and one token: what a later start finds of it.
  const std::int64_t depth = c.depth / config.block_tokens * config.block_tokens;
  for (std::int64_t slot = 0; slot <= depth; ++slot)
    request.prompt.push_back(static_cast<std::int32_t>(
        static_cast<double>(config.vocab) *
        uniform_at(kSeed, static_cast<std::uint64_t>(sequence), static_cast<std::uint64_t>(slot))));
  return request;
}

std::vector<Request> requests_of(const SpeculativeCase& c, const Config& config) {
  if (!is_scripted(c)) return greedy_requests(c);
  std::vector<Request> requests;
  for (std::int64_t i = 0; i < c.batch; ++i) requests.push_back(random_request(c, config, i));
  return requests;
}

}  // namespace

// An engine that answers the same requests again and again.
class SpeculativeRun::Side {
 public:
  static Result<std::unique_ptr<Side>> create(const Model& model, const SpeculativeCase& c,
                                              std::int64_t draft_tokens) {
    auto side = std::unique_ptr<Side>(new Side);
    std::unique_ptr<Drafter> drafter;
    if (draft_tokens > 0 && c.source == DraftSource::kMtp) {
      drafter = make_mtp_drafter(model);
    } else if (draft_tokens > 0 && c.source == DraftSource::kNgram) {
      drafter = std::make_unique<NgramDrafter>();
    } else {
      const bool right = c.source == DraftSource::kRight;
      auto scripted = std::make_unique<ScriptedDrafter>(
          model.config().vocab, [right](SequenceId, std::int64_t) { return right; });
      side->scripted_ = scripted.get();
      drafter = std::move(scripted);
    }
    auto counter = std::make_unique<CountingDrafter>(model, std::move(drafter));
    side->counter_ = counter.get();
    M3_TRY(side->engine_, Engine::create(model,
                                         {.context_tokens = cache_pages(c, model.config()) *
                                                            model.config().block_tokens,
                                          .sequences = c.batch,
                                          .draft_tokens = draft_tokens},
                                         std::move(counter)));
    side->requests_ = requests_of(c, model.config());
    for (const Request& request : side->requests_) M3_TRY_STATUS(side->engine_->check(request));
    return side;
  }

  // Scripted drafts follow, or miss, what `other` answered last; null: there are none.
  DecodeSample sample(const Side* other) {
    restart();
    if (other != nullptr && scripted_ != nullptr) follow(*other);
    counter_->reset();
    const double begin = steady_seconds();
    while (!engine_->idle())
      for (const TokenEvent& event : engine_->step())
        answers_[event.sequence - first_].push_back(event.token.id);
    DecodeSample sample = counter_->counted();
    sample.seconds = steady_seconds() - begin;
    sample.experts /= static_cast<double>(std::max<std::int64_t>(1, sample.steps));
    for (const auto& [id, answer] : answers_) sample.tokens += std::ssize(answer);
    return sample;
  }

  bool answered_like(const Side& other) const { return answers_ == other.answers_; }

  std::vector<Acceptance::Count> places() const {
    std::vector<Acceptance::Count> sum;
    for (const auto& [request, answer] : answers_) {
      const auto counts = engine_->acceptance(first_ + request);
      sum.resize(counts.size());
      for (std::size_t i = 0; i < counts.size(); ++i) {
        sum[i].drafted += counts[i].drafted;
        sum[i].accepted += counts[i].accepted;
      }
    }
    return sum;
  }

 private:
  Side() = default;

  // After the first time the prompts are in the cache, but for their last tokens.
  void restart() {
    for (const auto& [i, answer] : answers_) engine_->release(first_ + i);
    answers_.clear();
    first_ = next_;
    for (const Request& request : requests_) {
      const auto id = engine_->start(request);
      M3_CHECK(id && *id == next_, "a request that was checked is refused");
      ++next_;
    }
  }

  void follow(const Side& other) {
    for (const auto& [i, answer] : other.answers_) {
      Ids whole = requests_[static_cast<std::size_t>(i)].prompt;
      whole.insert(whole.end(), answer.begin(), answer.end());
      scripted_->expect(first_ + i, std::move(whole));
    }
  }

  std::unique_ptr<Engine> engine_;
  CountingDrafter* counter_ = nullptr;   // the engine's
  ScriptedDrafter* scripted_ = nullptr;  // the counter's, if it has one
  std::vector<Request> requests_;
  SequenceId first_ = 0, next_ = 0;      // ids: of the latest requests, and of what comes then
  std::map<std::int64_t, Ids> answers_;  // by request
};

SpeculativeRun::SpeculativeRun(std::unique_ptr<Side> plain, std::unique_ptr<Side> drafted)
    : plain_(std::move(plain)), drafted_(std::move(drafted)) {}

SpeculativeRun::~SpeculativeRun() = default;

Status SpeculativeRun::check(const Model& model, const SpeculativeCase& c) {
  const Config& config = model.config();
  for (const Ids& prompt : c.prompts)
    if (std::ssize(prompt) + c.tokens > config.positions_max)
      return fail("a prompt of {} tokens and {} more need {} positions, but the model has {}",
                  prompt.size(), c.tokens, std::ssize(prompt) + c.tokens, config.positions_max);
  if (c.depth >= config.positions_max || c.tokens >= config.positions_max - c.depth)
    return fail("depth {} and {} more tokens need {} positions, but the model has {}", c.depth,
                c.tokens, c.depth + c.tokens + 1, config.positions_max);
  const std::int64_t page = page_bytes(config, model.cache_format()).total();
  const double bytes =
      2.0 * static_cast<double>(cache_pages(c, config)) * static_cast<double>(page);
  if (bytes > static_cast<double>(available_memory()))
    return fail("caches of {} sequences at depth {} take {}, twice, but the system has {} left",
                c.batch, c.depth, quantity(bytes / 2, "B"),
                quantity(static_cast<double>(available_memory()), "B"));
  return {};
}

Result<std::unique_ptr<SpeculativeRun>> SpeculativeRun::create(const Model& model,
                                                               const SpeculativeCase& c) {
  M3_TRY_STATUS(check(model, c));
  M3_TRY(auto plain, Side::create(model, c, 0));
  M3_TRY(auto drafted, Side::create(model, c, c.draft_tokens));
  return std::unique_ptr<SpeculativeRun>(new SpeculativeRun(std::move(plain), std::move(drafted)));
}

SpeculativeSample SpeculativeRun::sample() {
  SpeculativeSample sample{.plain = plain_->sample(nullptr), .drafted = {}, .places = {}};
  sample.drafted = drafted_->sample(plain_.get());
  sample.places = drafted_->places();
  M3_CHECK(drafted_->answered_like(*plain_), "an answer with drafts differs from the one without");
  return sample;
}

}  // namespace m3
