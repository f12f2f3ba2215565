#include "server/engine_host.h"

#include <algorithm>

namespace m3 {

EngineHost::EngineHost(Engine& engine, MediaReader& media, EngineHostOptions options)
    : engine_(engine), media_(media), options_(options), thread_([this] { run(); }) {}

void EngineHost::stop() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

// ------------------------------------------------------------------------------- other threads

ApiStatus EngineHost::takes_more() const {
  const std::lock_guard lock(mutex_);
  return admit(1);
}

ApiResult<std::vector<JobId>> EngineHost::submit(std::vector<Job> jobs) {
  const std::lock_guard lock(mutex_);
  M3_TRY_STATUS(admit(std::ssize(jobs)));
  return queue(std::move(jobs));
}

ApiStatus EngineHost::admit(std::int64_t jobs) const {
  if (draining_ || ending_) {
    ApiError error(503, "this server is shutting down");
    error.retry_after = 5;
    return tl::unexpected(std::move(error));
  }
  const auto waiting = counts_.waiting + std::ssize(queued_);
  const auto places = options_.waiting_max + options_.sequences - counts_.running;
  // A request of more prompts than there may ever be places has its turn when nobody waits.
  const bool in_turn = waiting == 0 && jobs > 1;
  if (waiting + jobs > places && !in_turn) {
    ApiError error(
        429,
        fmt::format("{} requests are waiting already, as many as may: try again later", waiting));
    error.retry_after = 1;
    return tl::unexpected(std::move(error));
  }
  return {};
}

std::vector<JobId> EngineHost::submit_more(std::vector<Job> jobs) {
  std::unique_lock lock(mutex_);
  if (!ended_) return queue(std::move(jobs));
  lock.unlock();
  for (const Job& job : jobs) job.sink->failed(ApiError(503, "this server is shutting down"));
  return {};
}

std::vector<JobId> EngineHost::queue(std::vector<Job> jobs) {
  std::vector<JobId> ids;
  for (Job& job : jobs) {
    ids.push_back(next_++);
    queued_.emplace_back(ids.back(), std::move(job));
  }
  changed_.notify_all();
  return ids;
}

void EngineHost::cancel(JobId id) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
  changed_.notify_all();
}

GeneratorCounts EngineHost::counts() const {
  const std::lock_guard lock(mutex_);
  GeneratorCounts counts = counts_;
  counts.waiting += std::ssize(queued_);
  return counts;
}

// ------------------------------------------------------------------------------- the engine's

void EngineHost::run() {
  while (wait_for_work()) {
    take_commands();
    compute();
    for (auto& [sequence, job] : running_) job.sink->tick(steady_seconds());
  }
  fail_all();
}

// Whom a sink starts in its turn is told as well.
void EngineHost::fail_all() {
  const ApiError error(503, "this server is shutting down");
  for (const auto& [sequence, job] : std::exchange(running_, {})) job.sink->failed(error);
  for (;;) {
    std::deque<std::pair<JobId, Job>> jobs;
    {
      const std::lock_guard lock(mutex_);
      jobs.swap(queued_);
      if (jobs.empty()) {
        ended_ = true;
        return;
      }
    }
    for (const auto& [id, job] : jobs) job.sink->failed(error);
  }
}

bool EngineHost::wait_for_work() {
  std::unique_lock lock(mutex_);
  const auto work = [&] { return ending_ || !queued_.empty() || !cancelled_.empty(); };
  if (engine_.idle()) changed_.wait(lock, work);
  return !ending_;
}

void EngineHost::take_commands() {
  std::deque<std::pair<JobId, Job>> jobs;
  std::vector<JobId> cancelled;
  {
    const std::lock_guard lock(mutex_);
    jobs.swap(queued_);
    cancelled.swap(cancelled_);
    counts_.waiting += std::ssize(jobs);
  }
  for (const JobId id : cancelled) drop(id, jobs);
  for (auto& [id, job] : jobs) begin(id, std::move(job));
  tell_counts();
}

void EngineHost::drop(JobId id, std::deque<std::pair<JobId, Job>>& jobs) {
  const ApiError gone(kClientGone, "the client has gone");
  const auto queued = std::ranges::find(jobs, id, [](const auto& entry) { return entry.first; });
  if (queued != jobs.end()) {
    queued->second.sink->failed(gone);
    jobs.erase(queued);
  } else if (const auto found = sequences_.find(id); found != sequences_.end()) {
    const auto sink = running_.at(found->second).sink;
    end(found->second);
    sink->failed(gone);
  }
}

void EngineHost::begin(JobId id, Job job) {
  auto plan = look(id, job);
  if (!plan) return job.sink->failed(plan.error());
  job.request.media = std::move(*plan);
  const auto sequence = engine_.start(std::move(job.request), std::move(job.constraint));
  if (!sequence) return job.sink->failed(sequence.error());
  running_[*sequence] = {id, std::move(job.sink)};
  sequences_[id] = *sequence;
}

// Looking at pictures takes seconds; those who have their turn go on meanwhile.
Result<SplicePlan> EngineHost::look(JobId id, const Job& job) {
  if (job.media.empty()) return SplicePlan();
  const auto step_and_ask = [&] {
    compute();
    const std::lock_guard lock(mutex_);
    return ending_ || std::ranges::count(cancelled_, id) > 0;
  };
  M3_TRY(auto encoded, media_.encode(job.media, {.cancelled = step_and_ask}));
  return media_.plan(job.request.prompt, std::move(encoded));
}

void EngineHost::compute() {
  if (engine_.idle()) return;
  const auto events = engine_.step();
  // Who has its answer may ask for the counts at once.
  generated_ += std::ranges::count_if(events, [&](const TokenEvent& event) {
    return event.token.id >= 0 && running_.contains(event.sequence);
  });
  tell_counts();
  for (const TokenEvent& event : events) deliver(event);
  tell_counts();
}

// A sequence whose sink has had enough may still have tokens of the same step.
void EngineHost::deliver(const TokenEvent& event) {
  const auto found = running_.find(event.sequence);
  if (found == running_.end()) return;
  const bool goes_on = tell(found->second, event);
  if (!goes_on || event.finish != Finish::kNo) end(event.sequence);
}

// Who waited for its turn until its deadline has no prompt that was read.
bool EngineHost::tell(Running& job, const TokenEvent& event) {
  const PromptReading reading{.reused = engine_.reused_tokens(event.sequence),
                              .scores = engine_.prompt_scores(event.sequence)};
  if (event.token.id >= 0 && !std::exchange(job.prompt_read, true) &&
      !job.sink->prompt_read(reading))
    return false;
  return job.sink->token(event);
}

void EngineHost::end(SequenceId sequence) {
  const auto places = engine_.acceptance(sequence);
  if (!places.empty()) draft_steps_ += places[0].drafted;
  for (const Acceptance::Count& count : places) {
    drafts_.drafted += count.drafted;
    drafts_.accepted += count.accepted;
  }
  engine_.release(sequence);
  const auto found = running_.find(sequence);
  sequences_.erase(found->second.id);
  running_.erase(found);
}

void EngineHost::tell_counts() {
  const SequenceTable& table = engine_.table();
  const std::lock_guard lock(mutex_);
  counts_ = {.running = table.count(Sequence::State::kRunning),
             .waiting = table.count(Sequence::State::kWaiting),
             .pages = table.pages().pages(),
             .pages_held = table.pages().pages() - table.pages().available(),
             .preemptions = table.counts().preemptions,
             .prompt_tokens = table.counts().prompt_tokens,
             .reused_tokens = table.counts().reused_tokens,
             .generation_tokens = generated_,
             .drafts = draft_steps_,
             .drafted_tokens = drafts_.drafted,
             .accepted_tokens = drafts_.accepted};
}

}  // namespace m3
