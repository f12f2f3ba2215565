// A rendered prompt that remembers who wrote what.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/text_range.h"

namespace m3 {

// Text in which the stretches that came from a client are marked, so that control strings count
// only where the template wrote them (spec: chat-and-api §1.6).
class Prompt {
 public:
  template <typename... Texts>
  void add_template(const Texts&... texts) {
    ((text_ += std::string_view(texts)), ...);
  }
  void add_client(std::string_view text);
  // Bytes of another prompt, with the marks they have there.
  void add_slice(const Prompt& source, TextRange range);
  void truncate(std::size_t size);

  const std::string& text() const { return text_; }
  // Ascending, disjoint, not touching one another, none empty.
  const std::vector<TextRange>& client_ranges() const { return client_ranges_; }

 private:
  std::string text_;
  std::vector<TextRange> client_ranges_;
};

}  // namespace m3
