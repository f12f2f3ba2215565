// Finds added tokens in raw text.
#pragma once

#include <array>
#include <span>
#include <string_view>
#include <vector>

#include "text/text_range.h"
#include "text/tokenizer_file.h"

namespace m3 {

class AddedTokenMatcher {
 public:
  struct Match {
    TextRange range;
    TokenId id;
  };
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // The leftmost tokens, of those at one place the longest, none overlapping. A token that touches
  // one of `client_ranges` (ascending, disjoint) does not count: there, and at its edges, a control
  // string is a client's text (spec: chat-and-api §1.6).
  std::vector<Match> find_all(std::string_view text,
                              std::span<const TextRange> client_ranges) const;

 private:
  const AddedToken* longest_at(std::string_view text) const;

  std::array<std::vector<AddedToken>, 256> by_first_byte_;  // longest first
};

}  // namespace m3
