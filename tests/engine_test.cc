// The engine over a real (tiny) model: what runs beside a sequence changes nothing in it.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include "checkpoint/safetensors.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

using Ids = std::vector<std::int32_t>;

Ids prompt_of(std::int32_t seed, std::int64_t length) {
  Ids ids;
  for (std::int64_t i = 0; i < length; ++i)
    ids.push_back(static_cast<std::int32_t>((seed * 37 + i * i * 11 + i) % 1000));
  return ids;
}

Request request(Ids prompt, std::int64_t max_tokens, std::uint64_t seed) {
  return {.prompt = std::move(prompt),
          .max_tokens = max_tokens,
          .sampling = {.seed = seed},
          .stop_ids = {}};
}

// Runs everything to its end; the answers by sequence.
std::map<SequenceId, Ids> run(Engine& engine) {
  std::map<SequenceId, Ids> answers;
  while (!engine.idle())
    for (const TokenEvent& event : engine.step()) answers[event.sequence].push_back(event.token.id);
  return answers;
}

class EngineOnNano : public testing::Test {
 protected:
  std::unique_ptr<Engine> engine(std::int64_t context, std::int64_t rows, std::int64_t sequences) {
    auto made = Engine::create(
        *tiny_.model, {.context_tokens = context, .step_rows = rows, .sequences = sequences});
    EXPECT_TRUE(made);
    return std::move(*made);
  }
  Ids alone(const Request& r) {
    auto one = engine(4096, 512, 1);
    const auto id = one->start(r);
    EXPECT_TRUE(id);
    return run(*one)[*id];
  }
  TinyModel tiny_{tiny_model_directory("nano"), {"cpu", ""}, 2};
};

TEST_F(EngineOnNano, ASeededSequenceIsTheSameWhateverRunsBeside) {
  const std::vector<Request> requests = {
      request(prompt_of(1, 40), 30, 5), request(prompt_of(2, 3), 40, 6),
      request(prompt_of(3, 150), 20, 7), request(prompt_of(4, 1), 25, 5)};
  std::vector<Ids> expected;
  for (const Request& r : requests) expected.push_back(alone(r));
  // Steps of 9 rows cut every prompt; two sequences at a time; pages are scarce.
  for (const auto& [context, rows, sequences] :
       {std::tuple{4096, 512, 8}, std::tuple{4096, 9, 4}, std::tuple{256, 33, 2}}) {
    auto together = engine(context, rows, sequences);
    std::vector<SequenceId> ids;
    for (const Request& r : requests) ids.push_back(*together->start(r));
    auto answers = run(*together);
    for (std::size_t i = 0; i < ids.size(); ++i)
      EXPECT_EQ(answers[ids[i]], expected[i]) << "sequence " << i << ", steps of " << rows;
  }
}

TEST_F(EngineOnNano, ATurnComputesOnlyWhatIsNewSinceTheLastFullPage) {
  auto e = engine(4096, 512, 1);
  const auto reused = [&](const Request& r) {
    const SequenceId id = *e->start(r);
    EXPECT_EQ(run(*e)[id], alone(r));
    return e->reused_tokens(id);
  };
  const Request first = request(prompt_of(1, 50), 20, 3);
  EXPECT_EQ(reused(first), 0);
  // The last token of an answer is never stored: 69 tokens are, 64 of them in full pages.
  Ids longer = first.prompt;
  const Ids answer = alone(first);
  longer.insert(longer.end(), answer.begin(), answer.end());
  for (const std::int32_t token : prompt_of(9, 30)) longer.push_back(token);
  EXPECT_EQ(reused(request(longer, 20, 4)), 64);
  // The same again; its last token is computed even where all of its page is there.
  EXPECT_EQ(reused(request(longer, 20, 5)), 96);
  EXPECT_EQ(reused(request(Ids(longer.begin(), longer.begin() + 64), 20, 5)), 48);
  // A prompt that leaves the cached one in its middle.
  Ids other = longer;
  other[33] = 999;
  EXPECT_EQ(reused(request(other, 20, 4)), 32);
}

TEST_F(EngineOnNano, SequencesThatGiveWayGoOnWhereTheyWere) {
  // Four answers of 60 tokens in 12 pages of 16: each needs 5 at its end.
  auto e = engine(192, 512, 4);
  std::vector<SequenceId> ids;
  std::vector<Request> requests;
  for (std::int32_t i = 0; i < 4; ++i) {
    requests.push_back(request(prompt_of(i, 20), 60, 7));
    ids.push_back(*e->start(requests.back()));
  }
  auto answers = run(*e);
  EXPECT_GT(e->table().counts().preemptions, 0);
  for (std::size_t i = 0; i < ids.size(); ++i)
    EXPECT_EQ(answers[ids[i]], alone(requests[i])) << "sequence " << i;
}

// Logprobs of the prompt's tokens, and ids of the most probable ones.
std::vector<std::pair<float, std::int32_t>> scores_of(const Engine& engine, SequenceId id) {
  std::vector<std::pair<float, std::int32_t>> scores;
  for (const SampledToken& token : engine.prompt_scores(id))
    scores.emplace_back(token.logprob, token.top.at(0).id);
  return scores;
}

TEST_F(EngineOnNano, APromptIsScoredWhateverItsStepsAndWhatIsCached) {
  Request scored = request(prompt_of(3, 300), 20, 7);
  scored.prompt_logprobs = 1;
  auto whole = engine(4096, 512, 1);
  const SequenceId id = *whole->start(scored);
  const Ids answer = run(*whole)[id];
  const auto expected = scores_of(*whole, id);
  ASSERT_EQ(expected.size(), 299u);

  auto pieces = engine(27 * 16, 9, 2);
  ASSERT_TRUE(pieces->start(request(scored.prompt, 1, 7)));
  run(*pieces);                                                    // the cache knows the prompt now
  ASSERT_TRUE(pieces->start(request(prompt_of(5, 100), 200, 1)));  // which needs ever more pages
  const SequenceId again = *pieces->start(scored);
  EXPECT_EQ(run(*pieces)[again], answer);
  EXPECT_GT(pieces->table().counts().preemptions, 0);
  EXPECT_EQ(scores_of(*pieces, again), expected);
}

TEST_F(EngineOnNano, BadWordsNeverFollowSo) {
  Request free = request(prompt_of(3, 20), 30, 7);
  const Ids answer = alone(free);
  for (const std::size_t length : {1u, 2u, 4u}) {
    Request held = free;
    const auto begin = answer.begin() + 5;
    held.bad_words.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(length));
    const Ids other = alone(held);
    const Ids& word = held.bad_words[0];
    EXPECT_EQ(std::search(other.begin(), other.end(), word.begin(), word.end()), other.end());
    EXPECT_TRUE(std::equal(other.begin(), begin - answer.begin() + other.begin(), answer.begin()));
  }
}

TEST_F(EngineOnNano, ADeadlineEndsWhoWaitsAndWhoRuns) {
  double now = 0;
  auto made = Engine::create(
      *tiny_.model, {.context_tokens = 256, .sequences = 1, .seconds = [&] { return now; }});
  ASSERT_TRUE(made);
  Request first = request(prompt_of(1, 20), 100, 1), second = request(prompt_of(2, 20), 100, 1);
  first.deadline = 5;
  second.deadline = 3;
  const SequenceId a = *(*made)->start(first), b = *(*made)->start(second);
  std::map<SequenceId, std::int64_t> tokens;
  std::vector<SequenceId> ended;
  for (; !(*made)->idle(); now += 1)
    for (const TokenEvent& event : (*made)->step()) {
      tokens[event.sequence] += event.token.id >= 0;
      if (event.finish == Finish::kDeadline) ended.push_back(event.sequence);
    }
  EXPECT_EQ(ended, (std::vector<SequenceId>{b, a}));
  EXPECT_EQ(tokens[a], 6);
  EXPECT_EQ(tokens[b], 0);
}

// Draws even ids alone, and tells what it was told.
class EvenIds final : public TokenConstraint {
 public:
  explicit EvenIds(Ids& accepted) : accepted_(accepted) {}
  bool allowed(std::span<std::uint64_t> bits) override {
    std::ranges::fill(bits, 0x5555555555555555u);
    return accepted_.size() < 8;
  }
  void accept(std::int32_t id) override { accepted_.push_back(id); }

 private:
  Ids& accepted_;
};

TEST_F(EngineOnNano, AConstraintIsAskedBeforeEveryDrawAndToldAfterIt) {
  auto e = engine(4096, 512, 1);
  Ids accepted;
  const SequenceId id =
      *e->start(request(prompt_of(1, 40), 40, 5), std::make_unique<EvenIds>(accepted));
  const Ids answer = run(*e)[id];
  EXPECT_EQ(answer, accepted);
  const auto odd = [](std::int32_t token) { return token % 2 == 1; };
  EXPECT_EQ(std::count_if(answer.begin(), answer.begin() + 8, odd), 0);
  EXPECT_GT(std::count_if(answer.begin() + 8, answer.end(), odd), 0);
}

TEST_F(EngineOnNano, StopIdsEndTheAnswerAndAreReported) {
  const Request plain = request(prompt_of(1, 20), 30, 3);
  const Ids whole = alone(plain);
  Request stopped = plain;
  stopped.stop_ids = {whole[10]};
  const auto first = std::find(whole.begin(), whole.end(), whole[10]);
  EXPECT_EQ(alone(stopped), Ids(whole.begin(), first + 1));
}

TEST_F(EngineOnNano, StoppedAndReleasedSequencesFreeTheirPages) {
  auto e = engine(64, 512, 4);
  const SequenceId a = *e->start(request(prompt_of(1, 30), 30, 1));
  const SequenceId b = *e->start(request(prompt_of(2, 40), 24, 1));
  for (int i = 0; i < 5; ++i)
    for (const TokenEvent& event : e->step()) EXPECT_EQ(event.sequence, a);
  e->stop(a);
  e->release(a);
  EXPECT_EQ(run(*e)[b], alone(request(prompt_of(2, 40), 24, 1)));
}

TEST_F(EngineOnNano, RefusesWhatCanNeverRun) {
  auto e = engine(64, 512, 4);
  EXPECT_FALSE(e->start(request({}, 1, 0)));
  EXPECT_FALSE(e->start(request({1}, 0, 0)));
  EXPECT_FALSE(e->start(request({4096}, 1, 0)));
  EXPECT_FALSE(e->start(request({-1}, 1, 0)));
  EXPECT_FALSE(e->start(request({1}, 65, 0)));
  EXPECT_FALSE(e->start(request({1}, std::int64_t{1} << 62, 0)));
  EXPECT_TRUE(e->start(request({1}, 64, 0)));
}

// The golden greedy answers, which the official model computed without a cache.
TEST(Greedy, EqualsTheOfficialContinuation) {
  for (const auto& [golden, model] :
       {std::pair{"nano-generate", "nano"}, std::pair{"lists-generate", "lists"},
        std::pair{"smooth-generate", "smooth"}, std::pair{"nano-mxfp8-generate", "nano-mxfp8"}}) {
    const auto file = SafetensorsFile::open(std::string(M3_SOURCE_DIR) + "/tests/data/goldens/" +
                                            golden + ".safetensors");
    ASSERT_TRUE(file);
    const auto tensor = [&](const char* name) { return (*file)->tensor(*(*file)->find(name)); };
    const Tensor ids = tensor("ids"), answer = tensor("answer"), margins = tensor("margins");
    const TinyModel tiny(tiny_model_directory(model), {"reference", ""}, 2);
    auto e = Engine::create(*tiny.model, {.context_tokens = 512, .sequences = 1});
    ASSERT_TRUE(e);
    Request r{.prompt = Ids(ids.as<std::int32_t>(), ids.as<std::int32_t>() + ids.elements()),
              .max_tokens = answer.elements(),
              .sampling = {.temperature = 0},
              .stop_ids = {}};
    const SequenceId id = *(*e)->start(r);
    const Ids ours = run(**e)[id];
    for (std::int64_t i = 0; i < answer.elements(); ++i) {
      const auto token = answer.as<std::int32_t>()[i];
      if (ours[static_cast<std::size_t>(i)] == token) continue;
      EXPECT_LT(margins.as<float>()[i], 1e-3f)
          << golden << " leaves the official answer at token " << i;
      break;  // from here on the two go different ways
    }
  }
}

}  // namespace
}  // namespace m3
