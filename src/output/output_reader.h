// A model's turn, read as it is written: reasoning, content, calls of tools (spec: chat-and-api §5
// to §7). This is the text's half of the work; output_parser.h feeds it with tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "output/call_parser.h"
#include "output/marker_scanner.h"
#include "output/namespace_guard.h"
#include "output/output_event.h"
#include "text/json.h"
#include "text/stop.h"
#include "text/utf8.h"

namespace m3 {

// Where in its turn the model is.
enum class OutputState : std::uint8_t {
  kStart,  // nothing but what may precede a think marker
  kReasoning,
  kContent,
  kCalls,       // in a block of tool calls
  kAfterCalls,  // behind one that has been read; only another block counts
};

// The state in which a turn begins that was prompted with this thinking mode (§6.1). It follows
// from nothing else: every prompt holds think markers in its instructions.
OutputState begin_state(const std::optional<std::string>& thinking_mode);
// The state in which a turn goes on whose beginning the prompt holds: the text behind the last
// "]~b]ai" and its line feed. A block of calls in it counts as over, finished or not.
OutputState continued_state(std::string_view turn);

struct OutputOptions {
  OutputState begin = OutputState::kStart;
  // Nothing is read: all text is content, markers included ("reasoning_format": "none").
  bool raw = false;
  // Whether a block of tool calls is read. If not, because there are no tools or "tool_choice" is
  // "none", it is left out and the text around it stays content.
  bool parse_calls = false;
  Json tools;  // as normalise_tools() leaves them; their schemas say how arguments are meant
  CallIds make_call_id = random_call_ids();
  std::vector<std::string> stop;  // strings that end the turn
  bool include_stop = false;      // the string that did is part of the text
  // Whether stop strings count in all that is generated, markers, reasoning and calls included,
  // instead of in content alone.
  bool stop_anywhere = false;
};

// However its text is cut into pushes, the events are the same once pieces of one field are joined.
// Text is given as soon as it is certain: what could become a marker or a stop string waits, and so
// do values of arguments whose form is open (arguments_writer.h). The namespace string is never
// part of a text, unless `raw`.
class OutputReader {
 public:
  explicit OutputReader(OutputOptions options);

  // Bytes that need not be whole characters; what is no UTF-8 becomes U+FFFD. After a stop string
  // has matched, they are ignored.
  OutputEvents push(std::string_view bytes);
  // The end of the turn, for whatever reason: what was held back, and the end of an open call.
  // Nothing may be pushed after it.
  OutputEvents finish();

  OutputState state() const { return state_; }
  // The stop string that matched. The turn is over then, but finish() is still to be called.
  const std::optional<std::string>& stopped_by() const { return stop_.matched(); }
  // Calls begun so far.
  int calls() const { return calls_.calls(); }
  // "length", "tool_calls" or "stop" (§5.3), where the caller knows whether the limit of tokens
  // ended the turn.
  std::string_view finish_reason(bool limit_reached) const;

  // Think markers and beginnings of blocks so far, swallowed ones included.
  std::size_t markers() const { return markers_; }
  // Text waits that could belong to a marker.
  bool holds_text() const { return scanner_.holds() || waiting_for_stop_ > 0; }

 private:
  using Kind = OutputEvent::Kind;
  using Lexeme = MarkerScanner::Lexeme;
  void read(std::string_view characters, OutputEvents& events);
  void scan(bool at_end, OutputEvents& events);
  void take(const Lexeme& lexeme, OutputEvents& events);
  void take_outside_calls(const Lexeme& lexeme, OutputEvents& events);
  void take_in_calls(const Lexeme& lexeme, OutputEvents& events);
  void enter(OutputState state, OutputEvents& events);
  void add_text(std::string_view text, OutputEvents& events);
  void add_content(std::string text, OutputEvents& events);
  std::string until_stop(std::string_view text);

  const bool raw_, parse_calls_, include_stop_, stop_anywhere_;
  OutputState state_;
  Utf8Stream characters_;
  StopMatcher stop_;
  MarkerScanner scanner_;
  CallParser calls_;
  NamespaceGuard reasoning_guard_, content_guard_;
  std::size_t markers_ = 0;
  std::size_t waiting_for_stop_ = 0;  // bytes that the matcher in front of the scanner holds
  bool finished_ = false;
};

}  // namespace m3
