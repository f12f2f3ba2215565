// Drafts change nothing but the speed: every drafter, length and neighbour gives the same tokens.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/random.h"
#include "engine/eagle3_drafter.h"
#include "engine/engine.h"
#include "engine/mtp_chain_drafter.h"
#include "engine/mtp_drafter.h"
#include "engine/ngram_drafter.h"
#include "engine/scripted_drafter.h"
#include "model/eagle3_checkpoint.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

using Ids = std::vector<std::int32_t>;

// Everything that a client can see of an answer.
struct Answer {
  Ids ids;
  std::vector<float> logprobs;
  std::vector<std::int32_t> top_ids;
  Finish finish = Finish::kNo;
  friend bool operator==(const Answer&, const Answer&) = default;
};

struct Setting {
  std::int64_t context = 4096;
  std::int64_t rows = 512;
  std::int64_t sequences = 8;
  std::int64_t draft_tokens = 0;
};

// A clock by which every step takes as long as any other, so that every draft pays.
std::function<double()> ticks() {
  return [now = 0.0]() mutable { return now += 1; };
}

// One by which steps take what they like, so that lengths change all the time.
std::function<double()> dice() {
  return [now = 0.0, i = std::uint64_t{0}]() mutable { return now += uniform_at(4, 5, ++i); };
}

Ids prompt_of(std::int32_t seed, std::int64_t length) {
  Ids ids;
  for (std::int64_t i = 0; i < length; ++i)
    ids.push_back(static_cast<std::int32_t>((seed * 37 + i * i * 11 + i) % 1000));
  return ids;
}

Request greedy(Ids prompt, std::int64_t max_tokens) {
  return {.prompt = std::move(prompt),
          .max_tokens = max_tokens,
          .sampling = {.temperature = 0},
          .stop_ids = {}};
}

// Draws from few ids, so that drafts are right now and then, and with all that looks back.
Request seeded(Ids prompt, std::int64_t max_tokens, std::uint64_t seed) {
  return {.prompt = std::move(prompt),
          .max_tokens = max_tokens,
          .sampling = {.temperature = 0.7f,
                       .top_k = 3,
                       .top_p = 0.9f,
                       .repetition_penalty = 1.1f,
                       .presence_penalty = 0.2f,
                       .frequency_penalty = 0.1f,
                       .seed = seed,
                       .logprobs = 2},
          .stop_ids = {}};
}

std::vector<Request> mixed_requests(std::int64_t max_tokens) {
  return {greedy(prompt_of(1, 40), max_tokens), seeded(prompt_of(2, 3), max_tokens, 6),
          greedy(prompt_of(3, 150), max_tokens / 2), seeded(prompt_of(4, 1), max_tokens, 5)};
}

std::map<SequenceId, Answer> run(Engine& engine) {
  std::map<SequenceId, Answer> answers;
  while (!engine.idle()) {
    for (const TokenEvent& event : engine.step()) {
      Answer& answer = answers[event.sequence];
      EXPECT_EQ(answer.finish, Finish::kNo) << "an event behind the last";
      answer.ids.push_back(event.token.id);
      answer.logprobs.push_back(event.token.logprob);
      for (const TokenLogprob& top : event.token.top) answer.top_ids.push_back(top.id);
      answer.finish = event.finish;
    }
  }
  return answers;
}

bool always(SequenceId, std::int64_t) {
  return true;
}
bool never(SequenceId, std::int64_t) {
  return false;
}
bool often(SequenceId sequence, std::int64_t position) {
  return uniform_at(7, static_cast<std::uint64_t>(sequence), static_cast<std::uint64_t>(position)) <
         0.7;
}

class Speculation : public testing::Test {
 protected:
  explicit Speculation(const std::string& directory) : tiny_(directory, {"cpu", ""}, 2) {}

  std::unique_ptr<Engine> engine(const Setting& s, std::unique_ptr<Drafter> drafter,
                                 std::function<double()> clock = ticks()) {
    auto made = Engine::create(*tiny_.model,
                               {.context_tokens = s.context,
                                .step_rows = s.rows,
                                .sequences = s.sequences,
                                .draft_tokens = s.draft_tokens,
                                .seconds = std::move(clock)},
                               std::move(drafter));
    EXPECT_TRUE(made);
    return std::move(*made);
  }

  Answer plain(const Request& request) {
    auto e = engine({}, nullptr);
    const SequenceId id = *e->start(request);
    return run(*e)[id];
  }
  std::vector<Answer> plain(const std::vector<Request>& requests) {
    std::vector<Answer> answers;
    for (const Request& r : requests) answers.push_back(plain(r));
    return answers;
  }

  // Sequences get their ids in the order of the requests, from 0.
  std::unique_ptr<ScriptedDrafter> scripted(const std::vector<Request>& requests,
                                            const std::vector<Answer>& answers,
                                            ScriptedDrafter::Right right) {
    auto drafter = std::make_unique<ScriptedDrafter>(tiny_.model->config().vocab, std::move(right));
    for (std::size_t i = 0; i < requests.size(); ++i) {
      Ids whole = requests[i].prompt;
      whole.insert(whole.end(), answers[i].ids.begin(), answers[i].ids.end());
      drafter->expect(static_cast<SequenceId>(i), std::move(whole));
    }
    return drafter;
  }

  void expect_same(const std::vector<Request>& requests, const std::vector<Answer>& expected,
                   const Setting& setting, std::unique_ptr<Drafter> drafter,
                   std::function<double()> clock) {
    auto e = engine(setting, std::move(drafter), std::move(clock));
    for (const Request& r : requests) ASSERT_TRUE(e->start(r));
    auto answers = run(*e);
    for (std::size_t i = 0; i < requests.size(); ++i)
      EXPECT_EQ(answers[static_cast<SequenceId>(i)], expected[i])
          << "sequence " << i << ", " << setting.draft_tokens << " drafts, steps of "
          << setting.rows;
  }

  // Every drafter, in one setting.
  void expect_same(const std::vector<Request>& requests, const std::vector<Answer>& expected,
                   const Setting& setting) {
    for (const auto& right : {always, never, often})
      expect_same(requests, expected, setting, scripted(requests, expected, right), ticks());
    expect_same(requests, expected, setting, scripted(requests, expected, often), dice());
    expect_same(requests, expected, setting, std::make_unique<NgramDrafter>(), ticks());
  }

  // Some requests together, with scarce rows, and one of them alone.
  void expect_same_text(const std::function<std::unique_ptr<Drafter>()>& drafter,
                        std::size_t alone) {
    const auto requests = mixed_requests(40);
    const auto expected = plain(requests);
    for (const std::int64_t draft_tokens : {1, 3, 8}) {
      expect_same(requests, expected, {.draft_tokens = draft_tokens}, drafter(), ticks());
      expect_same(requests, expected, {.rows = 9, .sequences = 3, .draft_tokens = draft_tokens},
                  drafter(), dice());
      expect_same({requests[alone]}, {expected[alone]},
                  {.sequences = 1, .draft_tokens = draft_tokens}, drafter(), ticks());
    }
  }

  // Requests of `max_tokens`, together and alone, with every length up to 8.
  void expect_same_at_every_length(std::int64_t max_tokens,
                                   const std::function<std::unique_ptr<Drafter>()>& drafter) {
    for (std::int64_t draft_tokens = 1; draft_tokens <= 8; ++draft_tokens) {
      auto requests = mixed_requests(max_tokens);
      for (Request& r : requests) r.sampling.seed += static_cast<std::uint64_t>(draft_tokens);
      const auto expected = plain(requests);
      expect_same(requests, expected, {.draft_tokens = draft_tokens}, drafter(), dice());
      for (std::size_t i = 0; i < requests.size(); ++i)
        expect_same({requests[i]}, {expected[i]}, {.sequences = 1, .draft_tokens = draft_tokens},
                    drafter(), ticks());
    }
  }

  TinyModel tiny_;
};

class SpeculationOnNano : public Speculation {
 protected:
  SpeculationOnNano() : Speculation(tiny_model_directory("nano")) {}
};

class SpeculationWithEagle3 : public Speculation {
 protected:
  SpeculationWithEagle3() : Speculation(tiny_model_directory("nano")) {
    EXPECT_TRUE(synth_eagle3_nano(directory_.path(), 3));
  }
  std::unique_ptr<Drafter> drafter() {
    const Model& model = *tiny_.model;
    auto draft_model =
        load_eagle3(directory_.path(), model.config(), model.weights(), model.backend());
    EXPECT_TRUE(draft_model) << draft_model.error().message;
    return std::make_unique<Eagle3Drafter>(model, std::move(*draft_model));
  }

  TemporaryDirectory directory_;
};

class SpeculationOnMtpChain : public Speculation {
 protected:
  SpeculationOnMtpChain() : Speculation(chained_model_directory("nano-mtp")) {}
};

class SpeculationOnMtp : public Speculation {
 protected:
  SpeculationOnMtp() : Speculation(tiny_model_directory("nano-mtp")) {}
};

TEST_F(SpeculationOnNano, BatchedTextIsTheSame) {
  const auto requests = mixed_requests(40);
  const auto expected = plain(requests);
  for (const std::int64_t draft_tokens : {1, 3, 8})
    expect_same(requests, expected, {.draft_tokens = draft_tokens});
}

TEST_F(SpeculationOnNano, TextIsTheSameWhereRowsAndPagesAreScarce) {
  const auto requests = mixed_requests(40);
  const auto expected = plain(requests);
  expect_same(requests, expected, {.rows = 9, .sequences = 4, .draft_tokens = 4});
  expect_same(requests, expected, {.rows = 3, .sequences = 4, .draft_tokens = 4});
  expect_same(requests, expected, {.context = 256, .rows = 33, .sequences = 2, .draft_tokens = 8});
}

TEST_F(SpeculationOnNano, TextAloneIsTheSame) {
  for (const Request& r : {greedy(prompt_of(5, 20), 60), seeded(prompt_of(5, 20), 60, 9)})
    expect_same({r}, {plain(r)}, {.sequences = 1, .draft_tokens = 5});
}

// Over every length of draft, and more tokens than a test run should take: run it by name with
// --gtest_also_run_disabled_tests.
TEST_F(SpeculationOnNano, DISABLED_TwentyThousandTokens) {
  for (std::int64_t draft_tokens = 1; draft_tokens <= 8; ++draft_tokens) {
    auto requests = mixed_requests(200);
    for (Request& r : requests) r.sampling.seed += static_cast<std::uint64_t>(draft_tokens);
    const auto expected = plain(requests);
    expect_same(requests, expected, {.draft_tokens = draft_tokens});
    for (std::size_t i = 0; i < requests.size(); ++i)
      expect_same({requests[i]}, {expected[i]}, {.sequences = 1, .draft_tokens = draft_tokens});
  }
}

// An answer may end anywhere between drafts that are all right; nothing behind its end is reported.
TEST_F(SpeculationOnNano, AnswersEndInsideDrafts) {
  const Request whole = seeded(prompt_of(6, 30), 24, 3);
  const Answer answer = plain(whole);
  const Ids& ids = answer.ids;
  for (std::int64_t length = 1; length <= 12; ++length) {
    Request cut = whole;
    cut.max_tokens = length;
    expect_same({cut}, {plain(cut)}, {.draft_tokens = 8}, scripted({cut}, {answer}, always),
                ticks());
    Request stopped = whole;
    stopped.stop_ids = {ids[static_cast<std::size_t>(length)]};
    expect_same({stopped}, {plain(stopped)}, {.draft_tokens = 8},
                scripted({stopped}, {answer}, always), ticks());
  }
}

TEST_F(SpeculationOnNano, RightDraftsSaveStepsAndAreCounted) {
  const Request request = greedy(prompt_of(1, 20), 31);
  const Answer answer = plain(request);
  auto e = engine({.draft_tokens = 4}, scripted({request}, {answer}, always));
  const SequenceId id = *e->start(request);
  int steps = 0;
  while (!e->idle()) {
    e->step();
    ++steps;
  }
  // The prompt's step gives one token, the others up to five; some steps probe shorter drafts.
  EXPECT_LE(steps, 1 + 6 + 5);
  const auto counts = e->acceptance(id);
  ASSERT_EQ(counts.size(), 4u);
  EXPECT_GT(counts[0].drafted, 4);
  for (const Acceptance::Count& count : counts) EXPECT_EQ(count.accepted, count.drafted);
}

TEST_F(SpeculationOnNano, WrongDraftsAreCounted) {
  const Request request = greedy(prompt_of(1, 20), 31);
  auto e = engine({.draft_tokens = 4}, scripted({request}, {plain(request)}, never));
  const SequenceId id = *e->start(request);
  run(*e);
  EXPECT_GT(e->acceptance(id)[0].drafted, 10);
  EXPECT_EQ(e->acceptance(id)[0].accepted, 0);
}

TEST_F(SpeculationOnNano, RejectedDraftsLeaveTheCache) {
  const Request first = seeded(prompt_of(1, 50), 20, 3);
  const Answer answer = plain(first);
  for (const auto& right : {always, never, often}) {
    auto e = engine({.draft_tokens = 6}, scripted({first}, {answer}, right));
    const SequenceId id = *e->start(first);
    EXPECT_EQ(run(*e)[id], answer);
    Ids longer = first.prompt;
    longer.insert(longer.end(), answer.ids.begin(), answer.ids.end());
    const Request second = seeded(longer, 20, 4);
    const SequenceId next = *e->start(second);
    EXPECT_EQ(run(*e)[next], plain(second));
    EXPECT_EQ(e->reused_tokens(next), 64);
  }
}

TEST_F(SpeculationOnNano, RefusesMoreDraftsThanAStepMayHave) {
  for (const std::int64_t draft_tokens : {-1, 33})
    EXPECT_FALSE(Engine::create(*tiny_.model, {.context_tokens = 64, .draft_tokens = draft_tokens},
                                std::make_unique<NgramDrafter>()));
}

TEST_F(SpeculationOnMtp, TextIsTheSame) {
  expect_same_text([&] { return std::make_unique<MtpDrafter>(*tiny_.model); }, 1);
}

TEST_F(SpeculationOnMtp, DISABLED_TenThousandTokens) {
  expect_same_at_every_length(200, [&] { return std::make_unique<MtpDrafter>(*tiny_.model); });
}

// What was drafted, and behind what.
struct Drafted {
  Ids tokens;
  Ids drafts;
};

class RecordingDrafter final : public Drafter {
 public:
  // With `least`, so many are drafted wherever any are wanted.
  RecordingDrafter(std::unique_ptr<Drafter> drafter, std::vector<Drafted>& record,
                   std::int64_t least = 0)
      : drafter_(std::move(drafter)), record_(record), least_(least) {}
  Status attach(const PagedCache& cache, std::int64_t rows, std::int64_t sequences) override {
    return drafter_->attach(cache, rows, sequences);
  }
  bool needs_final_hidden() const override { return drafter_->needs_final_hidden(); }
  Watch* watch() override { return drafter_->watch(); }
  std::vector<Ids> draft(const VerifiedStep& given) override {
    VerifiedStep step = given;
    for (DraftJob& job : step.jobs)
      if (job.count > 0) job.count = std::max(job.count, least_);
    auto drafts = drafter_->draft(step);
    for (std::size_t i = 0; i < drafts.size(); ++i)
      record_.push_back({{step.jobs[i].tokens.begin(), step.jobs[i].tokens.end()}, drafts[i]});
    for (std::size_t i = 0; i < drafts.size(); ++i)
      drafts[i].resize(std::min(drafts[i].size(), static_cast<std::size_t>(given.jobs[i].count)));
    return drafts;
  }

 private:
  std::unique_ptr<Drafter> drafter_;
  std::vector<Drafted>& record_;
  std::int64_t least_;
};

std::int32_t arg_max(const Tensor& logits, std::int64_t row) {
  const float* x = logits.row<float>(row);
  return static_cast<std::int32_t>(std::max_element(x, x + logits.dim(1)) - x);
}

// The first two drafts behind `tokens`, from one step over all of them at once.
Ids mtp_drafts_from_scratch(const Model& model, const Ids& tokens) {
  const std::int64_t rows = std::ssize(tokens) - 1;
  auto cache = PagedCache::create(model.config(), model.cache_format(), 64, model.mtp_modules());
  ActivationArena arena(model.config(), rows, rows);
  Ids pages(64);
  std::iota(pages.begin(), pages.end(), 0);
  Batch main, ahead, next;
  main.add_sequence(std::span(tokens).first(static_cast<std::size_t>(rows)), 0, pages, false);
  main.keep_final = true;
  model.forward(main, *cache, arena);
  MtpInput input{.hidden = arena.activations().final_hidden};
  for (std::int32_t row = 0; row < rows; ++row) input.sources.push_back(row);
  ahead.add_sequence(std::span(tokens).subspan(1), 0, pages, false);
  for (input.module = model.mtp_modules() - 1; input.module > 0; --input.module)
    model.forward_mtp(input, ahead, *cache, arena);
  ahead.want_last();
  const MtpOutputs first = model.forward_mtp(input, ahead, *cache, arena);
  Ids drafts = {arg_max(first.logits, 0)};
  next.add_sequence(drafts, rows, pages, /*all_outputs=*/true);
  const MtpOutputs second =
      model.forward_mtp({.module = 1 % model.mtp_modules(), .hidden = first.hidden, .sources = {0}},
                        next, *cache, arena);
  drafts.push_back(arg_max(second.logits, 0));
  return drafts;
}

TEST_F(SpeculationOnMtp, DraftsDoNotDependOnHowTheStepsWereCut) {
  std::vector<Drafted> record;
  auto e = engine(
      {.rows = 17, .sequences = 2, .draft_tokens = 2},
      std::make_unique<RecordingDrafter>(std::make_unique<MtpDrafter>(*tiny_.model), record));
  ASSERT_TRUE(e->start(greedy(prompt_of(1, 40), 12)));
  ASSERT_TRUE(e->start(greedy(prompt_of(2, 25), 12)));
  run(*e);
  int compared = 0;
  for (const Drafted& drafted : record) {
    if (drafted.drafts.empty()) continue;
    Ids expected = mtp_drafts_from_scratch(*tiny_.model, drafted.tokens);
    expected.resize(drafted.drafts.size());
    EXPECT_EQ(drafted.drafts, expected);
    ++compared;
  }
  EXPECT_GT(compared, 10);
}

// A chain of modules over one sequence (spec: training §3.1), each over all rows at once.
class ChainFromScratch {
 public:
  ChainFromScratch(const Model& model, const Ids& tokens)
      : model_(model),
        tokens_(tokens),
        known_(std::ssize(tokens)),
        cache_(std::move(
            *PagedCache::create(model.config(), model.cache_format(), 64, model.mtp_modules()))),
        arena_(model.config(), std::ssize(tokens) + model.mtp_modules(), std::ssize(tokens)),
        pages_(64) {
    std::iota(pages_.begin(), pages_.end(), 0);
  }

  Ids drafts(std::size_t count) {
    const std::int64_t modules = model_.mtp_modules();
    Batch main;
    main.add_sequence(std::span(tokens_).first(tokens_.size() - 1), 0, pages_, false);
    main.keep_final = true;
    model_.forward(main, cache_, arena_);
    std::vector<float> states = floats(arena_.activations().final_hidden, known_ - 1);
    for (std::int64_t first = 0;;) {
      const std::int64_t end = first == 0 ? known_ - 1 : first + modules;
      std::vector<float> ahead;
      for (std::int64_t module = 0; module < modules; ++module) {
        states = run(module, first, end, states);
        ahead.insert(ahead.end(), states.end() - model_.config().hidden, states.end());
        if (tokens_.size() - static_cast<std::size_t>(known_) == count)
          return {tokens_.begin() + known_, tokens_.end()};
      }
      states = ahead;
      first = end;
    }
  }

 private:
  static std::vector<float> floats(const Tensor& t, std::int64_t rows) {
    return {t.as<float>(), t.as<float>() + rows * t.dim(1)};
  }
  // States [rows, hidden] of the module before at slots [first, end) -> of this one. Drafts.
  std::vector<float> run(std::int64_t module, std::int64_t first, std::int64_t end,
                         std::vector<float>& states) {
    Batch batch;
    batch.keep_final = true;
    batch.add_sequence(std::span(tokens_).subspan(static_cast<std::size_t>(first + 1 + module),
                                                  static_cast<std::size_t>(end - first)),
                       first, pages_, false);
    batch.want_last();
    MtpInput input{
        .module = module,
        .hidden = Tensor(states.data(), DType::kF32, {end - first, model_.config().hidden}),
        .sources = {}};
    for (std::int32_t row = 0; row < end - first; ++row) input.sources.push_back(row);
    const MtpOutputs out = model_.forward_mtp(input, batch, cache_, arena_);
    EXPECT_EQ(floats(out.hidden, 1),
              floats(arena_.activations().final_hidden.rows(end - first - 1, end - first), 1));
    tokens_.push_back(arg_max(out.logits, 0));
    return floats(arena_.activations().final_hidden, end - first);
  }

  const Model& model_;
  Ids tokens_;
  std::int64_t known_;
  PagedCache cache_;
  ActivationArena arena_;
  Ids pages_;
};

TEST_F(SpeculationOnMtpChain, TextIsTheSame) {
  expect_same_text([&] { return make_mtp_drafter(*tiny_.model); }, 1);
}

// More drafts than modules, prompts in pieces and in one, shorter than there are modules.
TEST_F(SpeculationOnMtpChain, DraftsAreThoseOfTheWholeChain) {
  for (const Setting& setting : {Setting{.rows = 17, .sequences = 2, .draft_tokens = 5},
                                 Setting{.sequences = 3, .draft_tokens = 3}}) {
    std::vector<Drafted> record;
    auto e = engine(setting,
                    std::make_unique<RecordingDrafter>(make_mtp_drafter(*tiny_.model), record, 5));
    for (const auto& [seed, length] : {std::pair(1, 40), std::pair(2, 25), std::pair(3, 1)})
      ASSERT_TRUE(e->start(greedy(prompt_of(seed, length), 12)));
    run(*e);
    int compared = 0;
    for (const Drafted& drafted : record) {
      if (drafted.drafts.empty()) continue;
      EXPECT_EQ(drafted.drafts,
                ChainFromScratch(*tiny_.model, drafted.tokens).drafts(drafted.drafts.size()));
      compared += drafted.drafts.size() == 5;
    }
    EXPECT_GT(compared, 10);
  }
}

// The same prompt several times: its full pages are shared, and written by one of them.
TEST_F(SpeculationOnMtpChain, SequencesThatShareTheirPagesDraftAsWell) {
  std::vector<Request> requests;
  for (std::uint64_t seed = 1; seed <= 3; ++seed)
    requests.push_back(seeded(prompt_of(1, 47), 40, seed));
  expect_same(requests, plain(requests), {.draft_tokens = 3}, make_mtp_drafter(*tiny_.model),
              ticks());
}

TEST_F(SpeculationWithEagle3, TextIsTheSame) {
  expect_same_text([&] { return drafter(); }, 0);
}

TEST_F(SpeculationWithEagle3, DISABLED_TenThousandTokens) {
  expect_same_at_every_length(200, [&] { return drafter(); });
}

TEST_F(SpeculationWithEagle3, DraftsDoNotDependOnHowTheStepsWereCut) {
  const auto record_of = [&](const Setting& setting) {
    std::vector<Drafted> record;
    auto e = engine(setting, std::make_unique<RecordingDrafter>(drafter(), record));
    EXPECT_TRUE(e->start(greedy(prompt_of(1, 40), 12)));
    EXPECT_TRUE(e->start(greedy(prompt_of(2, 25), 12)));
    run(*e);
    std::map<Ids, std::int32_t> first;  // by the text before it
    for (const Drafted& drafted : record)
      if (!drafted.drafts.empty()) first[drafted.tokens] = drafted.drafts[0];
    return first;
  };
  const auto whole = record_of({.draft_tokens = 2});
  const auto cut = record_of({.rows = 17, .sequences = 1, .draft_tokens = 1});
  int compared = 0;
  for (const auto& [tokens, id] : cut) {
    if (!whole.contains(tokens)) continue;
    EXPECT_EQ(id, whole.at(tokens));
    EXPECT_EQ(id % 4, 0) << "no draft id stands for it";
    ++compared;
  }
  EXPECT_GT(compared, 5);
}

}  // namespace
}  // namespace m3
