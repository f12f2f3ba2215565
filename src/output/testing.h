// What the tests of this folder share: turns written with a short sign for the namespace string,
// and events written as one line.
#pragma once

#include <string>
#include <string_view>

#include "output/output_parser.h"
#include "text/control_strings.h"
#include "text/testing.h"

namespace m3::testing {

// "^" stands for the namespace string.
inline std::string with_namespace(std::string_view text) {
  std::string spelled;
  for (const char c : text)
    spelled += c == '^' ? std::string(control::kNamespace) : std::string(1, c);
  return spelled;
}

// Ids that count from 0.
inline CallIds counted_ids() {
  return [n = 0]() mutable { return fmt::format("id{}", n++); };
}

// Pieces of one field joined, whatever interrupted them not.
inline OutputEvents joined(const OutputEvents& events) {
  OutputEvents all;
  for (const OutputEvent& event : events) append_event(all, event);
  return all;
}

// R(reasoning) C(content) and calls as f{...}; a call that never ended lacks the final ";".
inline std::string line_of(const OutputEvents& events) {
  std::string line;
  for (const OutputEvent& event : joined(events)) {
    switch (event.kind) {
      case OutputEvent::Kind::kReasoning:
        line += "R(" + event.text + ")";
        break;
      case OutputEvent::Kind::kContent:
        line += "C(" + event.text + ")";
        break;
      case OutputEvent::Kind::kCallBegin:
        line += fmt::format("{}:{}", event.call, event.name);
        break;
      case OutputEvent::Kind::kArguments:
        line += event.text;
        break;
      case OutputEvent::Kind::kCallEnd:
        line += ";";
    }
  }
  return line;
}

inline OutputEvents read_by(std::size_t step, std::string_view text, OutputOptions options) {
  options.make_call_id = counted_ids();
  OutputReader reader(std::move(options));
  OutputEvents events;
  const auto add = [&](OutputEvents some) {
    for (OutputEvent& event : some) events.push_back(std::move(event));
  };
  for (std::size_t at = 0; at < text.size(); at += step) add(reader.push(text.substr(at, step)));
  add(reader.finish());
  return events;
}

// The same by tokens: the tokenizer's own, or the control strings spelled from pieces.
inline OutputEvents read_by_tokens(std::string_view text, OutputOptions options,
                                   Tokenizer::ControlTokens control) {
  options.make_call_id = counted_ids();
  OutputParser parser(small_tokenizer(), std::move(options), /*skip_special_tokens=*/false);
  OutputEvents events;
  for (const TokenId id : value_of(small_tokenizer().encode(text, control)))
    for (OutputEvent& event : parser.push(id)) events.push_back(std::move(event));
  for (OutputEvent& event : parser.finish()) events.push_back(std::move(event));
  return events;
}

// Reads a whole turn, and checks that its cuts do not matter, nor its tokens.
inline OutputEvents read_turn(std::string_view written, const OutputOptions& options) {
  const std::string text = with_namespace(written);
  const OutputEvents whole = joined(read_by(text.size() + 1, text, options));
  for (std::size_t step = 1; step <= text.size(); ++step)
    EXPECT_EQ(line_of(read_by(step, text, options)), line_of(whole)) << written << " by " << step;
  for (std::size_t cut = 1; cut < text.size(); ++cut) {
    OutputOptions once = options;
    once.make_call_id = counted_ids();
    OutputReader reader(std::move(once));
    OutputEvents events = reader.push(std::string_view(text).substr(0, cut));
    for (auto& some : {reader.push(std::string_view(text).substr(cut)), reader.finish()})
      events.insert(events.end(), some.begin(), some.end());
    EXPECT_EQ(joined(events), whole) << written << " cut at " << cut;
  }
  for (const auto control : {Tokenizer::ControlTokens::kHonoured, Tokenizer::ControlTokens::kPlain})
    EXPECT_EQ(joined(read_by_tokens(text, options, control)), whole) << written << " by tokens";
  return whole;
}

inline std::string read_line(std::string_view written, const OutputOptions& options) {
  return line_of(read_turn(written, options));
}

// Options that parse calls of a tool "f" with this schema.
inline OutputOptions tool_options(std::string_view parameters = "{}") {
  OutputOptions options;
  options.begin = OutputState::kContent;
  options.parse_calls = true;
  options.tools = value_of(parse_json(fmt::format(
      R"([{{"type":"function","function":{{"name":"f","parameters":{}}}}}])", parameters)));
  return options;
}

}  // namespace m3::testing
