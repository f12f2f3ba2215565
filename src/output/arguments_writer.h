// The arguments of one tool call as a JSON object, written while the call is being read (spec:
// chat-and-api §5.1, §5.2).
//
// There is one result, and what has been written of it cannot be taken back. So a value is written
// as it comes where its schema decides its form before its end: strings (type exactly "string"),
// the members of objects and the elements of arrays, however deep. Every other value (numbers,
// unions, what no schema describes) is complete before the first byte of it is written. What
// follows:
//  - Of a key that comes twice in an object of known form, the first value stands and the others
//    are dropped. In a value that is complete first, all of them make an array.
//  - An object or array that begins with text waits for a child, or for its end. Text after a child
//    becomes the object's last member "$text"; in an array it is dropped.
//  - Keys and brackets are written with the first byte of a value inside them, so that a turn cut
//    off before that leaves nothing of an unfinished element.
#pragma once

#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "output/argument_value.h"
#include "output/parameter_schema.h"

namespace m3 {

class ArgumentsWriter {
 public:
  // The schema of the whole object.
  explicit ArgumentsWriter(const ParameterSchema& parameters);

  // An element begins. False, and nothing happens, when elements are nested too deep already.
  bool open(std::string_view key);
  // Whole characters of the innermost open element, of which there must be one.
  void text(std::string_view text);
  // The innermost open element of that key ends, and those inside it, whose ends are missing. False
  // when there is none.
  bool close(std::string_view key);
  // The call ends, and with it all that is open.
  void finish();
  // The turn ends in mid-call: what was begun in writing is closed, what was not is dropped.
  void abandon();

  bool in_element() const { return frames_.size() > 1; }
  // In a string only the end of an open element is a tag.
  bool in_string() const { return frames_.back().form == Form::kString; }
  // What has been written since the last call.
  std::string take() { return std::exchange(json_, {}); }

 private:
  enum class Form : std::uint8_t { kObject, kArray, kString, kComplete, kDropped };
  // An open element. The first one is the object of all arguments.
  struct Frame {
    Form form;
    ParameterSchema schema;
    ArgumentNode node;                      // what is not written as it comes
    bool begun = false;                     // its first byte is written
    std::size_t children = 0;               // opened in it
    std::size_t written = 0;                // begun in it
    std::unordered_set<std::string> known;  // keys of an object
  };
  Frame frame_for(std::string key);
  void begin(std::size_t index);
  void begin_member(std::size_t index);
  void end_innermost();
  void write_end(const Frame& frame);
  void write_loose_text();
  std::size_t depth() const { return frames_.size(); }

  std::vector<Frame> frames_;
  std::string json_;
};

}  // namespace m3
