// Who makes tokens, as the server sees it: the engine's thread, or a test's script.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "input/media_input.h"
#include "server/api_error.h"

namespace m3 {

using JobId = std::int64_t;

// What came of reading a prompt.
struct PromptReading {
  std::int64_t reused = 0;                    // tokens that were in the cache
  std::span<const SampledToken> scores = {};  // Engine::prompt_scores()
};

// Hears of one sequence, on the generator's thread.
class JobSink {
 public:
  virtual ~JobSink() = default;
  // Once, before the first token. False: that is enough.
  virtual bool prompt_read(const PromptReading& reading) = 0;
  // The next token. False: that is enough. After a token that finishes, nothing follows.
  virtual bool token(const TokenEvent& event) = 0;
  // It will never have (more) tokens.
  virtual void failed(const ApiError& error) = 0;
  // Now and then, between tokens: what waits for company has waited long enough, perhaps.
  virtual void tick(double now) = 0;
};

struct Job {
  Request request;  // its media are still to be looked at
  std::vector<MediaInput> media = {};
  std::unique_ptr<TokenConstraint> constraint = nullptr;
  std::shared_ptr<JobSink> sink;
};

// For GET /metrics and the like.
struct GeneratorCounts {
  std::int64_t running = 0, waiting = 0;
  std::int64_t pages = 0, pages_held = 0;
  std::int64_t preemptions = 0;
  std::int64_t prompt_tokens = 0, reused_tokens = 0, generation_tokens = 0;
  std::int64_t drafts = 0;  // steps that verified any
  std::int64_t drafted_tokens = 0, accepted_tokens = 0;
};

class Generator {
 public:
  virtual ~Generator() = default;
  // Whether a request of one job would be taken now: asked before the work of reading it is done.
  // Errors: those of submit(). Any thread.
  virtual ApiStatus takes_more() const = 0;
  // Queues jobs, all or none. Any thread. Errors: 429, the queue is full; 503, no more are taken.
  virtual ApiResult<std::vector<JobId>> submit(std::vector<Job> jobs) = 0;
  // As submit(), for the other choices of a request that is being answered: never refused. Where
  // no more jobs are run at all, each sink is told that it failed.
  virtual std::vector<JobId> submit_more(std::vector<Job> jobs) = 0;
  // The sink is told that it failed, with kClientGone, unless it is over by then. Any thread.
  virtual void cancel(JobId id) = 0;
  virtual GeneratorCounts counts() const = 0;
};

}  // namespace m3
