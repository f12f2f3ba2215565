// A generator that says what its prompts tell it to say (script.h), for tests of all that stands
// between the engine and the network.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "server/generator.h"
#include "server/server_options.h"
#include "tests/server/script.h"

namespace m3 {

// Keeps to a request's max_tokens, min_tokens, stop ids and constraint as the engine does. A script
// that says what its constraint forbids fails with status 409; a prompt without a script with 400.
class ScriptedGenerator final : public Generator {
 public:
  // `model` has a tokenizer and outlives the generator.
  explicit ScriptedGenerator(const ServedModel& model)
      : model_(model), thread_([this] { run(); }) {}
  ~ScriptedGenerator() override { stop(); }
  // Ends its thread. What runs hears no more.
  void stop();

  ApiStatus takes_more() const override { return {}; }
  ApiResult<std::vector<JobId>> submit(std::vector<Job> jobs) override;
  std::vector<JobId> submit_more(std::vector<Job> jobs) override;
  void cancel(JobId id) override;
  GeneratorCounts counts() const override;

 private:
  struct Play {
    JobId id;
    Job job;
    Script script;
    std::size_t next = 0;  // token of the script
    double due = 0;        // seconds
  };
  void run();
  bool take_commands();
  void begin(JobId id, Job job);
  bool advance(Play& play, double now);
  bool end_by_script(Play& play);
  bool say(Play& play, TokenId id);
  bool keeps_to_constraint(Play& play, TokenId id);

  const ServedModel& model_;
  std::vector<Play> plays_;  // the thread's own
  std::vector<std::uint64_t> allowed_;

  mutable std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<std::pair<JobId, Job>> queued_;
  std::vector<JobId> cancelled_;
  bool ending_ = false;
  JobId next_ = 0;
  GeneratorCounts counts_;

  std::thread thread_;  // last: it uses all the others
};

}  // namespace m3
