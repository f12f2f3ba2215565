// The pieces in which a stream is sent (spec: chat-and-api §9.3). A token is often three
// characters, and a message around each would be twenty times as long; a value that is complete
// first comes in one lump. Events go in as they are read; out come the same events with text of a
// better size.
#pragma once

#include <cstddef>
#include <optional>

#include "output/output_event.h"

namespace m3 {

// Characters are Unicode code points.
struct FragmentSizes {
  std::size_t enough = 8;       // as many go at once
  std::size_t enough_late = 5;  // as many go when the clock says so; none shorter but at the end
  double late_s = 0.050;        // after the last fragment, or after the first of what waits
  std::size_t most = 200;       // a fragment never has more
};

// Of a field (all reasoning, all content up to what interrupts it, the arguments of one call) the
// last `enough_late` characters wait for more, so that its end is not a fragment of two characters.
// Text for people gives them up when it is late; arguments, which nobody reads before their end, do
// not. Joined, the fragments of a field are its text; no character and no escape of JSON is cut.
class Fragments {
 public:
  explicit Fragments(FragmentSizes sizes = {}) : sizes_(sizes) {}

  // What can go now. The time is any clock's that does not run backwards, in seconds.
  OutputEvents push(const OutputEvents& events, double now_s);
  // When something of what waits will be due, if no more text comes.
  std::optional<double> deadline_s() const;
  // What is due.
  OutputEvents flush(double now_s);
  // The end: all that waits.
  OutputEvents finish();

 private:
  void add(const OutputEvent& event, double now_s, OutputEvents& sent);
  void send(std::size_t keep, double now_s, OutputEvents& sent);
  void send_all(OutputEvents& sent);
  bool is_arguments() const { return waiting_.kind == OutputEvent::Kind::kArguments; }
  // What stays behind when the clock, and not the size, sends.
  std::size_t kept_when_late() const { return is_arguments() ? sizes_.enough_late : 0; }

  FragmentSizes sizes_;
  OutputEvent waiting_{.kind = OutputEvent::Kind::kContent};
  std::size_t characters_ = 0;  // of waiting_.text
  double since_s_ = 0;          // the later of: the last fragment, the first character that waits
};

}  // namespace m3
