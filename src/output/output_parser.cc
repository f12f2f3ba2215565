#include "output/output_parser.h"

#include <algorithm>
#include <utility>

#include "text/control_strings.h"

namespace m3 {
namespace {

bool has_reasoning(const OutputEvents& events) {
  return std::any_of(events.begin(), events.end(), [](const OutputEvent& event) {
    return event.kind == OutputEvent::Kind::kReasoning;
  });
}

}  // namespace

OutputParser::OutputParser(const Tokenizer& tokenizer, OutputOptions options,
                           bool skip_special_tokens)
    : tokenizer_(tokenizer),
      skip_special_tokens_(skip_special_tokens),
      turn_end_(tokenizer.id_of(control::kTurnEnd)),
      markers_{tokenizer.id_of(control::kThinkBegin), tokenizer.id_of(control::kThinkEnd),
               tokenizer.id_of(control::kNamespace), tokenizer.id_of(control::kToolCallBegin),
               tokenizer.id_of(control::kToolCallEnd)},
      reader_(std::move(options)) {}

OutputEvents OutputParser::push(TokenId id) {
  if (id == turn_end_ || stopped_by()) return {};
  const std::size_t markers = reader_.markers();
  OutputEvents events = reader_.push(is_hidden(id) ? std::string_view() : tokenizer_.bytes(id));
  count(events, reader_.markers() != markers);
  return events;
}

// In a block of calls a control token is its text: a parameter may be called "filename".
bool OutputParser::is_hidden(TokenId id) const {
  return skip_special_tokens_ && reader_.state() != OutputState::kCalls &&
         tokenizer_.is_special(id) &&
         std::find(markers_.begin(), markers_.end(), id) == markers_.end();
}

OutputEvents OutputParser::finish() {
  OutputEvents events = reader_.finish();
  if (has_reasoning(events)) reasoning_tokens_ += undecided_tokens_;
  undecided_tokens_ = 0;
  return events;
}

// A token whose text waits is decided with that text.
void OutputParser::count(const OutputEvents& events, bool marker_read) {
  const bool reasoning = reader_.state() == OutputState::kReasoning && !marker_read;
  if (has_reasoning(events) || (reasoning && !reader_.holds_text())) {
    reasoning_tokens_ += undecided_tokens_ + 1;
    undecided_tokens_ = 0;
  } else {
    undecided_tokens_ = reasoning ? undecided_tokens_ + 1 : 0;
  }
}

}  // namespace m3
