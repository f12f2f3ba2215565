#include "output/output_event.h"

#include <utility>

namespace m3 {

void append_event(OutputEvents& events, OutputEvent event) {
  if (event.has_text() && event.text.empty()) return;
  if (!events.empty() && events.back().same_field(event)) {
    events.back().text += event.text;
  } else {
    events.push_back(std::move(event));
  }
}

}  // namespace m3
