// The engine's thread over a real (tiny) model, with sinks that the test writes.
#include "server/engine_host.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/tiny_model.h"

namespace m3 {
namespace {

// Collects tokens; the test waits for its end.
class Sink final : public JobSink {
 public:
  explicit Sink(std::int64_t enough = 1 << 20) : enough_(enough) {}

  bool prompt_read(const PromptReading&) override { return true; }
  bool token(const TokenEvent& event) override {
    const std::lock_guard lock(mutex_);
    if (event.token.id >= 0) ids_.push_back(event.token.id);
    over_ = event.finish != Finish::kNo || std::ssize(ids_) >= enough_;
    changed_.notify_all();
    return !over_;
  }
  void failed(const ApiError& error) override {
    const std::lock_guard lock(mutex_);
    status_ = error.status;
    over_ = true;
    changed_.notify_all();
  }
  void tick(double) override {}

  bool wait_for(std::int64_t tokens) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60),
                             [&] { return over_ || std::ssize(ids_) >= tokens; });
  }
  std::vector<std::int32_t> wait() {
    wait_for(1 << 30);
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(over_);
    return ids_;
  }
  int status() {
    const std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  const std::int64_t enough_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::int32_t> ids_;
  bool over_ = false;
  int status_ = 0;
};

class EngineHostOnNano : public testing::Test {
 protected:
  EngineHostOnNano() {
    auto made = Engine::create(*tiny_.model, {.context_tokens = 1024, .sequences = 2});
    EXPECT_TRUE(made);
    engine_ = std::move(*made);
    host_.emplace(*engine_, media_, EngineHostOptions{.sequences = 2, .waiting_max = 2});
  }
  Job job(const std::shared_ptr<Sink>& sink, std::int64_t max_tokens, std::int32_t seed = 1) {
    Job job{.request = {.max_tokens = max_tokens}, .sink = sink};
    for (std::int32_t i = 0; i < 40; ++i) job.request.prompt.push_back(seed * 31 + i);
    job.request.sampling.seed = static_cast<std::uint64_t>(seed);
    return job;
  }
  ApiResult<JobId> submit(Job one) {
    std::vector<Job> jobs;
    jobs.push_back(std::move(one));
    M3_TRY(const auto ids, host_->submit(std::move(jobs)));
    return ids[0];
  }
  bool all_returned() {
    for (int i = 0; i < 1000; ++i) {
      const GeneratorCounts counts = host_->counts();
      if (counts.running + counts.waiting + counts.pages_held == 0) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

  TinyModel tiny_{tiny_model_directory("nano"), {"cpu", ""}, 2};
  MediaReader media_{*tiny_.model};
  std::unique_ptr<Engine> engine_;
  std::optional<EngineHost> host_;
};

TEST_F(EngineHostOnNano, AnswersFromSeveralThreadsAreThoseOfOneAlone) {
  std::vector<std::vector<std::int32_t>> expected;
  for (std::int32_t seed = 1; seed <= 4; ++seed) {
    const auto sink = std::make_shared<Sink>();
    ASSERT_TRUE(submit(job(sink, 30, seed)));
    expected.push_back(sink->wait());
    EXPECT_EQ(expected.back().size(), 30u);
  }
  std::vector<std::shared_ptr<Sink>> sinks(4);
  std::vector<std::thread> threads;
  for (std::int32_t seed = 1; seed <= 4; ++seed)
    threads.emplace_back([&, seed] {
      auto& sink = sinks[static_cast<std::size_t>(seed - 1)];
      sink = std::make_shared<Sink>();
      EXPECT_TRUE(submit(job(sink, 30, seed)));
      sink->wait();
    });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(sinks[i]->wait(), expected[i]);
  EXPECT_TRUE(all_returned());
}

TEST_F(EngineHostOnNano, WhatIsTooMuchIsRefused) {
  std::vector<std::shared_ptr<Sink>> sinks;
  std::vector<JobId> ids;
  int refused = 0;
  for (int i = 0; i < 12; ++i) {
    sinks.push_back(std::make_shared<Sink>());
    auto id = submit(job(sinks.back(), 200, i + 1));
    if (id) {
      ids.push_back(*id);
    } else {
      EXPECT_EQ(id.error().status, 429);
      EXPECT_GT(id.error().retry_after, 0);
      ++refused;
    }
  }
  EXPECT_GE(refused, 6);
  EXPECT_GE(ids.size(), 4u);
  for (const JobId id : ids) host_->cancel(id);
  EXPECT_TRUE(all_returned());
}

TEST_F(EngineHostOnNano, CancellingFreesWhateverTheJobHasReached) {
  for (const std::int64_t reached : {0, 1, 5}) {
    const auto sink = std::make_shared<Sink>();
    const auto id = submit(job(sink, 900));
    ASSERT_TRUE(id);
    ASSERT_TRUE(sink->wait_for(reached));
    host_->cancel(*id);
    sink->wait();
    EXPECT_EQ(sink->status(), kClientGone);
    EXPECT_TRUE(all_returned());
    host_->cancel(*id);  // again, too late
  }
}

TEST_F(EngineHostOnNano, ASinkThatHasHadEnoughEndsItsSequence) {
  const auto sink = std::make_shared<Sink>(7);
  ASSERT_TRUE(submit(job(sink, 900)));
  EXPECT_EQ(sink->wait().size(), 7u);
  EXPECT_TRUE(all_returned());
}

TEST_F(EngineHostOnNano, StoppingTellsWhoRunsAndWhoWaits) {
  std::vector<std::shared_ptr<Sink>> sinks;
  for (int i = 0; i < 4; ++i) {
    sinks.push_back(std::make_shared<Sink>());
    ASSERT_TRUE(submit(job(sinks.back(), 900, i + 1)));
  }
  host_->stop();
  for (const auto& sink : sinks) {
    sink->wait();
    EXPECT_EQ(sink->status(), 503);
  }
  const auto late = std::make_shared<Sink>();
  EXPECT_EQ(submit(job(late, 5)).error().status, 503);
  std::vector<Job> more;
  more.push_back(job(late, 5));
  EXPECT_TRUE(host_->submit_more(std::move(more)).empty());
  EXPECT_EQ(late->status(), 503);
}

}  // namespace
}  // namespace m3
