// One value of a tool call's arguments, from the text or elements that the model wrote to JSON
// (spec: chat-and-api §5.2).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "output/parameter_schema.h"

namespace m3 {

// An element of a tool call as it stands in the output.
struct ArgumentNode {
  std::string key;
  std::string text;                    // of a value without children: all there is, verbatim
  std::vector<ArgumentNode> children;  // in order
  std::string loose_text;              // text between children, trimmed, joined by spaces

  // Ends a run of text, at a child or at the end of a value that has children.
  void end_text_run();
};

// The value as JSON text. Numbers keep the model's spelling where JSON allows it; text that the
// schema does not let be anything else is a string, verbatim. Where no schema says more, children
// named "item" make an array, others an object; repeated keys make an array at the place of the
// first, and text between children is the member "$text". `depth`: how many values this one lies
// in; the whole must stay readable by parse_json().
std::string argument_json(const ArgumentNode& node, const ParameterSchema& schema,
                          std::size_t depth);

}  // namespace m3
