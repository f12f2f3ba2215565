// The engine's thread: takes jobs from other threads, computes step after step, hands out tokens.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "server/generator.h"

namespace m3 {

struct EngineHostOptions {
  std::int64_t sequences = 16;   // that the engine runs at the same time
  std::int64_t waiting_max = 8;  // jobs that wait for their turn; one more is told 429
};

class EngineHost final : public Generator {
 public:
  // Both outlive the host, and belong to its thread from here on.
  EngineHost(Engine& engine, MediaReader& media, EngineHostOptions options);
  ~EngineHost() override { stop(); }

  // Ends what runs, and the thread; nothing is taken any more.
  void stop();

  ApiStatus takes_more() const override;
  ApiResult<std::vector<JobId>> submit(std::vector<Job> jobs) override;
  std::vector<JobId> submit_more(std::vector<Job> jobs) override;
  void cancel(JobId id) override;
  GeneratorCounts counts() const override;

  // From here on submit() refuses with 503; what has been taken goes on.
  void drain() { draining_ = true; }

 private:
  struct Running {
    JobId id;
    std::shared_ptr<JobSink> sink;
    bool prompt_read = false;
  };
  ApiStatus admit(std::int64_t jobs) const;
  std::vector<JobId> queue(std::vector<Job> jobs);
  void run();
  bool wait_for_work();
  void fail_all();
  void take_commands();
  void drop(JobId id, std::deque<std::pair<JobId, Job>>& jobs);
  void begin(JobId id, Job job);
  Result<SplicePlan> look(JobId id, const Job& job);
  void compute();
  void deliver(const TokenEvent& event);
  bool tell(Running& job, const TokenEvent& event);
  void end(SequenceId sequence);
  void tell_counts();

  Engine& engine_;
  MediaReader& media_;
  const EngineHostOptions options_;
  std::atomic<bool> draining_{false};

  mutable std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<std::pair<JobId, Job>> queued_;
  std::vector<JobId> cancelled_;
  bool ending_ = false;
  bool ended_ = false;  // the thread reads the queue no more
  JobId next_ = 0;
  GeneratorCounts counts_;

  // The thread's own.
  std::map<SequenceId, Running> running_;
  std::map<JobId, SequenceId> sequences_;
  std::int64_t generated_ = 0;
  Acceptance::Count drafts_;      // of sequences that ended
  std::int64_t draft_steps_ = 0;  // theirs

  std::thread thread_;  // last: it uses all the others
};

}  // namespace m3
