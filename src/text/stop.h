// Stop strings in streamed text (spec: chat-and-api §8.4).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace m3 {

// Holds back what could become a stop string, so that no part of one is ever shown. What is shown
// does not depend on how the text was cut into feeds: the stop string that is complete first ends
// the text; of two that are complete with the same character, the longer one.
class StopMatcher {
 public:
  // Empty strings are dropped: they would end every text before it began.
  explicit StopMatcher(std::vector<std::string> stops);

  // The text that is safe to show now. Nothing more comes once a stop string was found.
  std::string feed(std::string_view text);
  // The end of the text: what was held back, when no stop string was found.
  std::string flush();
  // The stop string that ended the text, if one did; it is not part of what was shown.
  const std::optional<std::string>& matched() const { return matched_; }

 private:
  struct Hit {
    std::size_t begin, end;
  };
  std::optional<Hit> first_hit() const;
  std::size_t held_length() const;

  std::vector<std::string> stops_;
  std::string pending_;
  std::optional<std::string> matched_;
};

}  // namespace m3
