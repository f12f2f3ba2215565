// The calls in a block of tool calls (spec: chat-and-api §4, §5). A hand-written machine on tags
// and the text between them: the block is no XML, since values escape nothing.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "output/arguments_writer.h"
#include "output/namespace_guard.h"
#include "output/output_event.h"
#include "text/json.h"

namespace m3 {

// Makes ids of calls, a new one each time.
using CallIds = std::function<std::string()>;

// "call_" and 24 random hexadecimal digits.
CallIds random_call_ids();

// What is malformed is repaired or left out, never an error:
//  - a closing tag also closes the elements inside its own; one that closes nothing is ignored,
//    but inside a string it is text;
//  - text between parameters makes the rest of its call junk, up to the call's end;
//  - a call that begins inside another one, but not inside a string, ends that one;
//  - text and elements outside calls, and calls without a name, are dropped;
//  - calls of tools that nobody declared are given like others.
class CallParser {
 public:
  // `tools` as normalise_tools() leaves them.
  CallParser(Json tools, CallIds make_id);
  CallParser(const CallParser&) = delete;  // schemas point into the tools
  CallParser& operator=(const CallParser&) = delete;

  // A tag without its < and >. False when it ends the block.
  bool tag(std::string_view tag, OutputEvents& events);
  // Whole characters between tags.
  void text(std::string_view text, OutputEvents& events);
  // The turn ends. The arguments of an open call are closed; of its unfinished elements, strings
  // keep what has been given, others are dropped.
  void finish(OutputEvents& events);

  // Calls begun.
  int calls() const { return calls_; }

 private:
  bool closing_tag(std::string_view name, OutputEvents& events);
  bool closes_element(std::string_view name);
  void opening_tag(std::string_view tag, OutputEvents& events);
  void begin_call(std::string name, OutputEvents& events);
  void end_call(OutputEvents& events);
  void give_arguments(OutputEvents& events);
  ParameterSchema parameters_of(std::string_view name) const;

  const Json tools_;
  const CallIds make_id_;
  std::optional<ArgumentsWriter> call_;  // while one is open
  bool junk_ = false;                    // the rest of the open call does not count
  NamespaceGuard guard_;                 // of its arguments
  int calls_ = 0;
};

// A tag, without < and >, that closes a block of tool calls.
bool closes_block(std::string_view tag);

}  // namespace m3
