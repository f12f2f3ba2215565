#include "output/output_reader.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace m3 {

OutputState begin_state(const std::optional<std::string>& thinking_mode) {
  if (thinking_mode == "enabled") return OutputState::kReasoning;
  if (thinking_mode == "disabled") return OutputState::kContent;
  return OutputState::kStart;
}

OutputState continued_state(std::string_view turn) {
  OutputReader reader({});
  reader.push(turn);
  reader.finish();
  return reader.state() == OutputState::kCalls ? OutputState::kContent : reader.state();
}

OutputReader::OutputReader(OutputOptions options)
    : raw_(options.raw),
      parse_calls_(options.parse_calls),
      include_stop_(options.include_stop),
      stop_anywhere_(options.stop_anywhere && !options.raw),
      state_(raw_ ? OutputState::kContent : options.begin),
      stop_(std::move(options.stop)),
      calls_(std::move(options.tools), std::move(options.make_call_id)) {}

OutputEvents OutputReader::push(std::string_view bytes) {
  M3_CHECK(!finished_, "{} bytes behind the end of a turn", bytes.size());
  OutputEvents events;
  if (!stopped_by()) read(characters_.push(bytes), events);
  return events;
}

OutputEvents OutputReader::finish() {
  M3_CHECK(!finished_, "a turn ends twice");
  OutputEvents events;
  if (!stopped_by()) read(characters_.flush(), events);
  if (stop_anywhere_) scanner_.add(stop_.flush());
  scan(true, events);
  calls_.finish(events);
  append_event(events, {.kind = Kind::kContent, .text = stop_.flush()});
  waiting_for_stop_ = 0;
  finished_ = true;
  return events;
}

void OutputReader::read(std::string_view characters, OutputEvents& events) {
  if (raw_) {
    add_content(std::string(characters), events);
  } else if (stop_anywhere_) {
    const std::string text = until_stop(characters);
    waiting_for_stop_ += characters.size();
    waiting_for_stop_ -= std::min(text.size(), waiting_for_stop_);
    scanner_.add(text);
    scan(false, events);
  } else {
    scanner_.add(characters);
    scan(false, events);
  }
}

// The text up to a stop string, as far as none can begin in it; with the string, if so asked.
std::string OutputReader::until_stop(std::string_view text) {
  std::string shown = stop_.feed(text);
  if (include_stop_ && stop_.matched()) shown += *stop_.matched();
  return shown;
}

void OutputReader::scan(bool at_end, OutputEvents& events) {
  while (stop_anywhere_ || !stopped_by()) {
    const auto mode =
        state_ == OutputState::kCalls ? MarkerScanner::Mode::kBlock : MarkerScanner::Mode::kText;
    const auto lexeme = scanner_.next(mode, at_end);
    if (!lexeme) return;
    take(*lexeme, events);
  }
}

void OutputReader::take(const Lexeme& lexeme, OutputEvents& events) {
  using LexemeKind = MarkerScanner::Kind;
  const bool marker = lexeme.kind == LexemeKind::kThinkBegin ||
                      lexeme.kind == LexemeKind::kThinkEnd ||
                      lexeme.kind == LexemeKind::kBlockBegin;
  if (marker) ++markers_;
  if (state_ == OutputState::kCalls) {
    take_in_calls(lexeme, events);
  } else if (lexeme.kind == LexemeKind::kBlockBegin) {
    enter(OutputState::kCalls, events);
  } else if (state_ != OutputState::kAfterCalls) {
    take_outside_calls(lexeme, events);
  }
}

void OutputReader::take_outside_calls(const Lexeme& lexeme, OutputEvents& events) {
  switch (lexeme.kind) {
    case MarkerScanner::Kind::kText:
      add_text(lexeme.text, events);
      break;
    case MarkerScanner::Kind::kThinkBegin:
      enter(OutputState::kReasoning, events);
      break;
    case MarkerScanner::Kind::kThinkEnd:
      if (state_ != OutputState::kContent) enter(OutputState::kContent, events);
      break;
    default:
      break;  // a namespace string alone says nothing
  }
}

void OutputReader::take_in_calls(const Lexeme& lexeme, OutputEvents& events) {
  if (lexeme.kind == MarkerScanner::Kind::kTag) {
    const bool in_block =
        parse_calls_ ? calls_.tag(lexeme.text, events) : !closes_block(lexeme.text);
    if (!in_block) enter(parse_calls_ ? OutputState::kAfterCalls : OutputState::kContent, events);
  } else if (parse_calls_) {
    calls_.text(lexeme.text, events);
  }
}

// A stop string does not reach across what interrupts the content.
void OutputReader::enter(OutputState state, OutputEvents& events) {
  if (!stop_anywhere_ && state_ == OutputState::kContent)
    append_event(events, {.kind = Kind::kContent, .text = stop_.flush()});
  state_ = state;
}

void OutputReader::add_text(std::string_view text, OutputEvents& events) {
  if (state_ == OutputState::kReasoning) {
    append_event(events,
                 {.kind = Kind::kReasoning, .text = reasoning_guard_.pass(std::string(text))});
    return;
  }
  state_ = OutputState::kContent;
  std::string shown = content_guard_.pass(std::string(text));
  if (stop_anywhere_) {
    append_event(events, {.kind = Kind::kContent, .text = std::move(shown)});
  } else {
    add_content(std::move(shown), events);
  }
}

void OutputReader::add_content(std::string text, OutputEvents& events) {
  append_event(events, {.kind = Kind::kContent, .text = until_stop(text)});
}

std::string_view OutputReader::finish_reason(bool limit_reached) const {
  if (limit_reached && !stopped_by()) return "length";
  return calls() > 0 ? "tool_calls" : "stop";
}

}  // namespace m3
