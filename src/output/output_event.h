// What a model's turn is made of, in the order in which it was written.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace m3 {

struct OutputEvent {
  enum class Kind : std::uint8_t {
    kReasoning,  // text
    kContent,    // text
    kCallBegin,  // call, id, name
    kArguments,  // call, text: a piece of the JSON object
    kCallEnd,    // call: the pieces of its arguments are complete, and JSON
  };
  Kind kind;
  std::string text;  // whole characters, never empty where the kind has text
  int call = -1;     // the call's index in the turn, from 0
  std::string id;
  std::string name;

  bool has_text() const { return kind != Kind::kCallBegin && kind != Kind::kCallEnd; }
  // Pieces of one field follow one another and may be joined.
  bool same_field(const OutputEvent& other) const {
    return kind == other.kind && call == other.call && has_text();
  }
  bool operator==(const OutputEvent&) const = default;
};

using OutputEvents = std::vector<OutputEvent>;

// Appends, joining text to a last event of the same field; empty text is nothing.
void append_event(OutputEvents& events, OutputEvent event);

}  // namespace m3
