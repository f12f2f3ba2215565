// Several adapters and the plain base in one batch of the engine: each sequence has the bits that
// it has alone, on a model to which its adapter was added as the only one.
#include "model/adapters.h"

#include <gtest/gtest.h>

#include "engine/eagle3_drafter.h"
#include "engine/engine.h"
#include "engine/mtp_drafter.h"
#include "model/eagle3_checkpoint.h"
#include "model/random_values.h"
#include "tests/temporary_directory.h"
#include "tests/tiny_model.h"

namespace m3 {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr std::int32_t kBase = -1, kWide = 0, kNarrow = 1, kAdapters = 2;

void fill(const Lora& lora, std::uint64_t key) {
  for (const LoraModule& module : lora.modules()) {
    fill_random(++key, 0, module.a.elements(), {0, 0.1}, module.a.as<float>());
    fill_random(++key, 0, module.b.elements(), {0, 0.1}, module.b.as<float>());
  }
}

// 0: all groups. 1: queries of one layer, its indexer, an expert by its released name, the head.
Lora make_lora(const Model& model, std::int32_t which) {
  const auto table = *weight_table(model.config(), model.mtp_modules());
  Lora lora;
  if (which == kWide) {
    const LoraOptions options{.groups = {{{4, 8}, {4, 8}, {3, 8}, {2, 6}}}, .seed = 1};
    lora = *Lora::create(model.config(), table, options);
  } else {
    const LoraSites sites = lora_sites(table);
    for (const char* name :
         {"language_model.model.layers.3.self_attn.q_proj",
          "language_model.model.layers.3.self_attn.index_q_proj",
          "language_model.model.layers.3.block_sparse_moe.experts.1.w1", "language_model.lm_head"})
      EXPECT_TRUE(lora.add(sites.at(name), {5, 5}, 1)) << name;
  }
  fill(lora, 100 * static_cast<std::uint64_t>(which + 1));
  return lora;
}

// What a client can see of an answer.
struct Answer {
  Ids ids;
  std::vector<float> logprobs;         // of the answer,
  std::vector<float> prompt_logprobs;  // and of the prompt, where they were asked for
  friend bool operator==(const Answer&, const Answer&) = default;
};

Request request(std::int32_t adapter, std::int32_t seed, std::int64_t length,
                std::int64_t max_tokens) {
  Request r{.max_tokens = max_tokens, .adapter = adapter};
  for (std::int64_t i = 0; i < length; ++i)
    r.prompt.push_back(static_cast<std::int32_t>((seed * 37 + i * i * 11 + i) % 1000));
  r.sampling = {.top_k = 20, .seed = static_cast<std::uint64_t>(seed), .logprobs = 0};
  return r;
}

std::map<SequenceId, Answer> run(Engine& engine) {
  std::map<SequenceId, Answer> answers;
  while (!engine.idle())
    for (const TokenEvent& event : engine.step()) {
      Answer& answer = answers[event.sequence];
      answer.ids.push_back(event.token.id);
      answer.logprobs.push_back(event.token.logprob);
    }
  for (auto& [id, answer] : answers)
    for (const SampledToken& token : engine.prompt_scores(id))
      answer.prompt_logprobs.push_back(token.logprob);
  return answers;
}

// Models that have one adapter each, or none, and the one that has all.
class AdaptersOn : public testing::TestWithParam<Platform> {
 protected:
  explicit AdaptersOn(const std::string& name) : directory_(tiny_model_directory(name)) {
    for (std::int32_t which = 0; which < kAdapters; ++which) {
      models_.push_back(std::make_unique<TinyModel>(directory_, GetParam(), 1));
      loras_.push_back(make_lora(*base_.model, which));
      EXPECT_TRUE(attach(loras_.back(), *models_.back()->model));
      adapters_.add(make_lora(*base_.model, which));
    }
    EXPECT_TRUE(adapters_.attach(*all_.model));
  }

  static std::unique_ptr<Engine> engine(const Model& model, EngineOptions options,
                                        std::unique_ptr<Drafter> drafter = nullptr) {
    if (options.context_tokens == 0) options.context_tokens = 4096;
    auto made = Engine::create(model, options, std::move(drafter));
    EXPECT_TRUE(made);
    return std::move(*made);
  }
  std::unique_ptr<Engine> together(EngineOptions options,
                                   std::unique_ptr<Drafter> drafter = nullptr) {
    options.adapters = adapters_.count();
    return engine(*all_.model, options, std::move(drafter));
  }
  Answer alone(Request r) {
    const Model& model = r.adapter < 0 ? *base_.model : *models_[std::size_t(r.adapter)]->model;
    r.adapter = -1;
    const auto one = engine(model, {.sequences = 1});
    const SequenceId id = *one->start(std::move(r));
    return run(*one)[id];
  }
  void expect_same(Engine& mixed, const std::vector<Request>& requests,
                   const std::vector<Answer>& expected) {
    std::vector<SequenceId> ids;
    for (const Request& r : requests) ids.push_back(*mixed.start(r));
    auto answers = run(mixed);
    for (std::size_t i = 0; i < ids.size(); ++i)
      EXPECT_EQ(answers[ids[i]], expected[i])
          << "sequence " << i << ", adapter " << requests[i].adapter;
  }

  // Whatever is drafted, by any sequence.
  void expect_same_with(std::unique_ptr<Drafter> drafter) {
    const std::vector<Request> requests = {request(kBase, 1, 20, 8), request(kWide, 1, 20, 8),
                                           request(kNarrow, 2, 20, 8)};
    std::vector<Answer> expected;
    for (const Request& r : requests) expected.push_back(alone(r));
    EngineOptions options{.draft_tokens = 3};
    options.seconds = [now = 0.0]() mutable { return now += 1; };
    const auto mixed = together(options, std::move(drafter));
    expect_same(*mixed, requests, expected);
    for (SequenceId id = 0; id < std::ssize(requests); ++id)
      EXPECT_GT(mixed->acceptance(id).front().drafted, 0) << id;
  }

  const std::string directory_;
  TinyModel base_{directory_, GetParam(), 1}, all_{directory_, GetParam(), 2};
  std::vector<std::unique_ptr<TinyModel>> models_;
  std::vector<Lora> loras_;
  Adapters adapters_;
};

class AdaptersOnNano : public AdaptersOn {
 protected:
  AdaptersOnNano() : AdaptersOn("nano") {}
};
class AdaptersOnMtp : public AdaptersOn {
 protected:
  AdaptersOnMtp() : AdaptersOn("nano-mtp") {}
};

INSTANTIATE_TEST_SUITE_P(Platforms, AdaptersOnNano, testing::ValuesIn(two_platforms()),
                         [](const auto& platform) { return platform.param.backend; });
INSTANTIATE_TEST_SUITE_P(Platforms, AdaptersOnMtp, testing::ValuesIn(two_platforms()),
                         [](const auto& platform) { return platform.param.backend; });

TEST_P(AdaptersOnMtp, ASequenceIsTheSameWhoeverSharesItsBatch) {
  std::vector<Request> requests = {request(kBase, 1, 40, 6),   request(kWide, 1, 40, 6),
                                   request(kNarrow, 1, 40, 6), request(kNarrow, 2, 3, 12),
                                   request(kWide, 3, 21, 4),   request(kBase, 4, 1, 9)};
  requests[2].prompt_logprobs = requests[4].prompt_logprobs = 0;
  std::vector<Answer> expected;
  for (const Request& r : requests) expected.push_back(alone(r));
  EXPECT_NE(expected[0].logprobs, expected[1].logprobs);
  EXPECT_NE(expected[0].logprobs, expected[2].logprobs);
  // Steps of 9 rows cut every prompt; two sequences at a time; pages are scarce.
  for (const auto& [context, rows, sequences] :
       {std::tuple{4096, 512, 8}, std::tuple{4096, 9, 4}, std::tuple{64, 33, 2}}) {
    SCOPED_TRACE(rows);
    expect_same(*together({.context_tokens = context, .step_rows = rows, .sequences = sequences}),
                requests, expected);
  }
}

TEST_P(AdaptersOnMtp, PagesAreSharedUnderOneAdapterAlone) {
  const auto mixed = together({});
  const auto reused = [&](std::int32_t adapter) {
    const Request r = request(adapter, 5, 50, 2);
    const SequenceId id = *mixed->start(r);
    EXPECT_EQ(run(*mixed)[id], alone(r));
    return mixed->reused_tokens(id);
  };
  for (const std::int32_t adapter : {kWide, kBase, kNarrow}) EXPECT_EQ(reused(adapter), 0);
  for (const std::int32_t adapter : {kWide, kBase, kNarrow}) EXPECT_EQ(reused(adapter), 48);
}

// Drafts are guesses of what the adapter will say; it alone decides.
TEST_P(AdaptersOnMtp, DraftsOfModulesChangeNothing) {
  expect_same_with(std::make_unique<MtpDrafter>(*all_.model));
}

TEST_P(AdaptersOnNano, DraftsOfEagle3ChangeNothing) {
  const TemporaryDirectory eagle3;
  ASSERT_TRUE(synth_eagle3_nano(eagle3.path(), 3));
  const Model& model = *all_.model;
  auto draft_model = load_eagle3(eagle3.path(), model.config(), model.weights(), model.backend());
  ASSERT_TRUE(draft_model) << draft_model.error().message;
  expect_same_with(std::make_unique<Eagle3Drafter>(model, std::move(*draft_model)));
}

TEST_P(AdaptersOnMtp, OneThatIsNotThereIsRefused) {
  const auto mixed = together({});
  EXPECT_TRUE(mixed->check(request(kAdapters - 1, 1, 3, 1)));
  for (const std::int32_t adapter : {-2, kAdapters}) {
    const Status status = mixed->check(request(adapter, 1, 3, 1));
    ASSERT_FALSE(status);
    EXPECT_NE(status.error().message.find("the model has 2"), std::string::npos);
  }
}

}  // namespace
}  // namespace m3
