#include "apps/terminal_answer.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <optional>

namespace m3 {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// Token ids in, safe text out.
class TextStream {
 public:
  explicit TextStream(const TerminalAnswerOptions& options)
      : options_(options), stop_(options.stop) {
    if (options.tokenizer != nullptr) detokenizer_.emplace(*options.tokenizer);
  }
  void push(std::int32_t id, std::string& text) {
    if (detokenizer_) emit(stop_.feed(detokenizer_->push(id)), text);
  }
  void finish(std::string& text) {
    if (!detokenizer_) return;
    emit(stop_.feed(detokenizer_->flush()), text);
    emit(stop_.flush(), text);
  }
  bool stopped() const { return stop_.matched().has_value(); }

 private:
  void emit(const std::string& piece, std::string& text) const {
    if (piece.empty()) return;
    text += piece;
    if (options_.show) options_.show(piece);
  }
  const TerminalAnswerOptions& options_;
  StopMatcher stop_;
  std::optional<Detokenizer> detokenizer_;
};

}  // namespace

std::string draft_summary(std::span<const Acceptance::Count> places) {
  std::int64_t drafted = 0, accepted = 0;
  for (const Acceptance::Count& place : places) {
    drafted += place.drafted;
    accepted += place.accepted;
  }
  return drafted == 0 ? "" : fmt::format("{} of {} drafts were right", accepted, drafted);
}

Result<TerminalAnswer> read_terminal_answer(Engine& engine, SequenceId id,
                                            std::int64_t prompt_tokens,
                                            const TerminalAnswerOptions& options) {
  TerminalAnswer answer;
  TextStream text(options);
  const auto begin = Clock::now();
  auto first = begin, last = begin;
  while (answer.finish_reason.empty()) {
    if (options.cancelled && options.cancelled()) {
      engine.stop(id);
      answer.finish_reason = "cancelled";
      break;
    }
    const auto events = engine.step();
    if (answer.tokens.empty() && options.prompt_progress)
      options.prompt_progress(std::min(engine.cached_tokens(id), prompt_tokens), prompt_tokens);
    for (const TokenEvent& event : events) {
      if (event.finish == Finish::kBroken)
        return fail(
            "the model's output is not a number after {} tokens of the answer: its weights are "
            "damaged, or not those of a MiniMax-M3",
            answer.tokens.size());
      last = Clock::now();
      if (answer.tokens.empty()) first = last;
      answer.tokens.push_back(event.token);
      text.push(event.token.id, answer.text);
      if (event.finish == Finish::kLength) answer.finish_reason = "length";
      if (event.finish == Finish::kStop || text.stopped()) answer.finish_reason = "stop";
      if (!answer.finish_reason.empty()) break;  // a step may give tokens behind a stop string
    }
  }
  answer.prompt_tokens_computed = prompt_tokens - engine.reused_tokens(id);
  engine.stop(id);
  text.finish(answer.text);
  answer.prompt_seconds = seconds(begin, first);
  answer.answer_seconds = seconds(first, last);
  return answer;
}

}  // namespace m3
