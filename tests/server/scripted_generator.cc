#include "tests/server/scripted_generator.h"

#include <algorithm>
#include <chrono>

namespace m3 {

void ScriptedGenerator::stop() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

ApiResult<std::vector<JobId>> ScriptedGenerator::submit(std::vector<Job> jobs) {
  return submit_more(std::move(jobs));
}

std::vector<JobId> ScriptedGenerator::submit_more(std::vector<Job> jobs) {
  const std::lock_guard lock(mutex_);
  std::vector<JobId> ids;
  for (Job& job : jobs) {
    ids.push_back(next_++);
    queued_.emplace_back(ids.back(), std::move(job));
  }
  changed_.notify_all();
  return ids;
}

void ScriptedGenerator::cancel(JobId id) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
  changed_.notify_all();
}

GeneratorCounts ScriptedGenerator::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

// One token of each play that is due, round after round.
void ScriptedGenerator::run() {
  while (take_commands()) {
    const double now = steady_seconds();
    std::erase_if(plays_, [&](Play& play) { return !advance(play, now); });
    for (const Play& play : plays_) play.job.sink->tick(now);
    const std::lock_guard lock(mutex_);
    counts_.running = std::ssize(plays_);
  }
}

bool ScriptedGenerator::take_commands() {
  std::deque<std::pair<JobId, Job>> queued;
  std::vector<JobId> cancelled;
  {
    std::unique_lock lock(mutex_);
    const auto called = [&] { return ending_ || !queued_.empty() || !cancelled_.empty(); };
    const bool busy = std::ranges::any_of(
        plays_, [now = steady_seconds()](const Play& play) { return play.due <= now; });
    if (plays_.empty())
      changed_.wait(lock, called);
    else if (!busy)
      changed_.wait_for(lock, std::chrono::milliseconds(1), called);
    if (ending_) return false;
    queued.swap(queued_);
    cancelled.swap(cancelled_);
  }
  for (auto& [id, job] : queued) begin(id, std::move(job));
  for (const JobId id : cancelled)
    std::erase_if(plays_, [&](const Play& play) {
      if (play.id == id) play.job.sink->failed(ApiError(kClientGone, "the client has gone"));
      return play.id == id;
    });
  return true;
}

void ScriptedGenerator::begin(JobId id, Job job) {
  const std::string prompt = model_.tokenizer->decode(job.request.prompt);
  auto script = read_script(prompt, *model_.tokenizer);
  if (!script) return job.sink->failed(script.error());
  plays_.push_back({.id = id, .job = std::move(job), .script = std::move(*script)});
}

// False: the play is over.
bool ScriptedGenerator::advance(Play& play, double now) {
  if (play.due > now) return true;
  play.due = now + play.script.gap_seconds;
  if (play.next == play.script.tokens.size()) return end_by_script(play);
  return say(play, play.script.tokens[play.next++]);
}

bool ScriptedGenerator::end_by_script(Play& play) {
  switch (play.script.ending) {
    case Script::Ending::kStop:
    case Script::Ending::kLength:  // of a script without tokens
      ++play.next;
      return say(play, model_.stop_ids.front());
    case Script::Ending::kBroken:
      play.job.sink->token({.sequence = play.id, .token = {}, .finish = Finish::kBroken});
      return false;
    case Script::Ending::kGone:
      play.job.sink->failed(ApiError(503, "the engine has ended, as the script says"));
      return false;
  }
  return false;
}

bool ScriptedGenerator::say(Play& play, TokenId id) {
  const Request& request = play.job.request;
  if (!keeps_to_constraint(play, id)) {
    const std::string text = model_.tokenizer->decode(std::span(&id, 1));
    play.job.sink->failed(ApiError(
        409,
        fmt::format("the constraint forbids token {} of the script, \"{}\"", play.next - 1, text)));
    return false;
  }
  SampledToken token{.id = id};
  if (request.sampling.logprobs >= 0) token.logprob = -1, token.rank = 1;
  if (request.sampling.logprobs > 0) token.top = {{.id = id, .logprob = -1}};
  const auto said = static_cast<std::int64_t>(play.next), length = std::ssize(play.script.tokens);
  const bool last =
      said > length || (said == length && play.script.ending == Script::Ending::kLength);
  Finish finish = Finish::kNo;
  if (std::ranges::count(request.stop_ids, id) > 0 && said > request.min_tokens)
    finish = Finish::kStop;
  else if (said >= request.max_tokens || last)
    finish = Finish::kLength;
  if (play.next == 1 && !play.job.sink->prompt_read({})) return false;
  const bool goes_on = play.job.sink->token({play.id, std::move(token), finish});
  return goes_on && finish == Finish::kNo;
}

bool ScriptedGenerator::keeps_to_constraint(Play& play, TokenId id) {
  TokenConstraint* constraint = play.job.constraint.get();
  if (constraint == nullptr) return true;
  allowed_.assign(static_cast<std::size_t>(model_.config->vocab + 63) / 64, 0);
  if (constraint->allowed(allowed_) && !has_bit(allowed_, id)) return false;
  constraint->accept(id);
  return true;
}

}  // namespace m3
