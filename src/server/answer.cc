#include "server/answer.h"

#include <algorithm>

#include "base/check.h"

namespace m3 {
namespace {

constexpr double kPingSeconds = 5;

}  // namespace

// One choice: tokens to events, in pieces of a good size.
class Answer::Choice final : public JobSink {
 public:
  Choice(std::shared_ptr<Answer> answer, std::size_t prompt, std::int64_t index)
      : answer_(std::move(answer)),
        prompt_(prompt),
        index_(static_cast<int>(index)),
        first_of_prompt_(index % answer_->plan_.options.choices == 0) {
    if (answer_->model_.tokenizer != nullptr)
      parser_.emplace(*answer_->model_.tokenizer, answer_->plan_.output,
                      answer_->plan_.options.skip_special_tokens);
  }

  // The prompt's other choices begin when they find it in the cache.
  bool prompt_read(const PromptReading& reading) override {
    if (answer_->over_) return false;
    prompt_read_ = true;
    if (first_of_prompt_) {
      answer_->record_.usage.cached_tokens += reading.reused;
      answer_->writer_->prompt(index_, reading.scores);
      answer_->start_others(prompt_);
    }
    return answer_->plan_.options.prompt_only ? end(/*limit=*/true, {}) : true;
  }

  bool token(const TokenEvent& event) override {
    if (answer_->over_) return false;
    if (event.token.id >= 0) drawn(event);
    switch (event.finish) {
      case Finish::kNo:
        break;
      case Finish::kBroken:
        answer_->failed(nothing_to_draw());
        return false;
      case Finish::kStop:
      case Finish::kLength:
      case Finish::kDeadline:
        // Those that wait for the prompt to be read are out of time as well, and have to say so.
        if (first_of_prompt_ && !prompt_read_) answer_->start_others(prompt_);
        return end(event.finish != Finish::kStop, stop_id_of(event));
    }
    const bool stopped = parser_ && parser_->stopped_by();
    return stopped ? end(/*limit=*/false, {}) : true;
  }

  void failed(const ApiError& error) override { answer_->failed(error); }

  void tick(double now) override {
    if (answer_->over_) return;
    if (answer_->plan_.options.stream) write(fragments_.flush(now));
    if (now - last_write_ < kPingSeconds) return;
    last_write_ = now;
    answer_->writer_->ping();
  }

 private:
  void drawn(const TokenEvent& event) {
    count();
    answer_->writer_->token(index_, event.token);
    // A token that ends the answer is no part of its text.
    if (event.finish == Finish::kStop) return;
    if (!parser_) return write({{.kind = OutputEvent::Kind::kContent}});  // its id is all there is
    const OutputEvents events = parser_->push(event.token.id);
    count_reasoning();
    write(answer_->plan_.options.stream ? fragments_.push(events, last_token_) : events);
  }

  void count() {
    AnswerRecord& record = answer_->record_;
    const double now = steady_seconds();
    if (tokens_++ == 0) {
      if (record.first_token_s == 0) record.first_token_s = now - answer_->began_;
    } else {
      record.token_gaps_s.push_back(now - last_token_);
    }
    last_token_ = now;
    ++record.usage.completion_tokens;
  }
  void count_reasoning() {
    answer_->record_.usage.reasoning_tokens += parser_->reasoning_tokens() - reasoning_;
    reasoning_ = parser_->reasoning_tokens();
  }

  ApiError nothing_to_draw() const {
    if (answer_->plan_.constraint || answer_->plan_.options.limits_ids)
      return {400,
              "no token is left that may be drawn: what the request allows and the form that "
              "it wants exclude one another"};
    return {500,
            "the model's output is not a number: its weights are damaged, or not those of a "
            "MiniMax-M3"};
  }

  std::optional<std::int32_t> stop_id_of(const TokenEvent& event) const {
    const auto& ids = answer_->plan_.options.stop_ids;
    if (event.finish != Finish::kStop || std::ranges::count(ids, event.token.id) == 0) return {};
    return event.token.id;
  }

  void write(const OutputEvents& events) {
    for (const OutputEvent& event : events)
      answer_->writer_->event(index_, event, answer_->record_.usage);
    if (!events.empty()) last_write_ = steady_seconds();
  }

  bool end(bool limit, std::optional<std::int32_t> stop_id) {
    ChoiceEnd end{.reason = limit ? "length" : "stop", .stop_string = {}, .stop_id = stop_id};
    if (parser_) {
      const OutputEvents events = parser_->finish();
      count_reasoning();
      end.reason = parser_->finish_reason(limit);
      end.stop_string = parser_->stopped_by();
      write(answer_->plan_.options.stream ? fragments_.push(events, last_token_) : events);
      write(fragments_.finish());
    }
    answer_->writer_->choice_end(index_, end, answer_->record_.usage);
    answer_->choice_ended(end.reason);
    return false;
  }

  std::shared_ptr<Answer> answer_;
  const std::size_t prompt_;
  const int index_;
  const bool first_of_prompt_;
  std::optional<OutputParser> parser_;
  Fragments fragments_;
  bool prompt_read_ = false;
  std::int64_t tokens_ = 0;
  int reasoning_ = 0;
  double last_token_ = 0, last_write_ = steady_seconds();
};

Answer::Answer(Generator& generator, const ServedModel& model, AnswerPlan plan,
               std::unique_ptr<AnswerWriter> writer, Done done)
    : generator_(generator),
      model_(model),
      plan_(std::move(plan)),
      writer_(std::move(writer)),
      done_(std::move(done)),
      began_(steady_seconds()),
      open_(std::ssize(plan_.prompts) * plan_.options.choices) {
  for (const PromptPlan& prompt : plan_.prompts)
    record_.usage.prompt_tokens += std::ssize(prompt.ids);
}

ApiResult<Job> Answer::make_job(std::size_t prompt, std::int64_t choice) {
  const PromptPlan& from = plan_.prompts[prompt];
  const std::int64_t index = static_cast<std::int64_t>(prompt) * plan_.options.choices + choice;
  M3_TRY(Request request, make_request(from.ids, plan_.options, model_, index));
  request.client = plan_.client;
  request.deadline = plan_.deadline;
  return Job{.request = std::move(request),
             .media = from.media,
             .constraint = plan_.constraint ? plan_.constraint() : nullptr,
             .sink = std::make_shared<Choice>(shared_from_this(), prompt, index)};
}

// Of each prompt one choice.
ApiStatus Answer::start() {
  std::vector<Job> jobs;
  for (std::size_t prompt = 0; prompt < plan_.prompts.size(); ++prompt) {
    M3_TRY(jobs.emplace_back(), make_job(prompt, 0));
  }
  const std::lock_guard lock(mutex_);
  M3_TRY(jobs_, generator_.submit(std::move(jobs)));
  return {};
}

void Answer::start_others(std::size_t prompt) {
  std::vector<Job> jobs;
  for (std::int64_t choice = 1; choice < plan_.options.choices; ++choice) {
    auto job = make_job(prompt, choice);
    M3_CHECK(job, "a prompt that fitted fits no more: {}", job.error().message);
    jobs.push_back(std::move(*job));
  }
  if (!jobs.empty()) remember(generator_.submit_more(std::move(jobs)));
}

void Answer::remember(const std::vector<JobId>& jobs) {
  const std::lock_guard lock(mutex_);
  jobs_.insert(jobs_.end(), jobs.begin(), jobs.end());
  if (cancelled_)
    for (const JobId job : jobs) generator_.cancel(job);
}

void Answer::cancel() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(cancelled_, true)) return;
  for (const JobId job : jobs_) generator_.cancel(job);
}

void Answer::choice_ended(const std::string& reason) {
  if (record_.outcome.empty()) record_.outcome = reason;
  if (--open_ > 0) return;
  finish(record_.outcome);
  writer_->end(record_.usage);
}

void Answer::failed(const ApiError& error) {
  if (over_) return;
  finish(error.status == kClientGone ? "cancelled" : "error");
  writer_->fail(error);
  cancel();
}

// Before the client hears of the end: who has an answer finds it counted.
void Answer::finish(const std::string& outcome) {
  over_ = true;
  record_.outcome = outcome;
  record_.seconds = steady_seconds() - began_;
  done_(record_);
}

}  // namespace m3
