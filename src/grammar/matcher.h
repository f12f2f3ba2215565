// A text under a grammar, token by token.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/vocabulary.h"

namespace m3 {

// Each matcher remembers for itself which tokens its states allow; grammar and vocabulary are
// shared and unchanging. Not for several threads at once; copies are independent.
class Matcher {
 public:
  // The vocabulary outlives the matcher.
  Matcher(std::shared_ptr<const Grammar> grammar, const Vocabulary& vocabulary);

  // Adds the tokens that may come next to a set of at least vocabulary.mask_words() words. There is
  // always one, unless the text can_end() here. The token that ends a turn is no part of grammars.
  void allow(std::span<std::uint64_t> bits);
  // Goes on with this token. False: it may not come here, and nothing has changed.
  bool accept(TokenId id);
  // The text may end here.
  bool can_end() const { return automaton_.can_end(state_); }
  // It has to.
  bool is_complete() const { return can_end() && !automaton_.is_open(state_); }

 private:
  using Mask = std::vector<std::uint64_t>;
  const Mask& mask();
  void tidy();

  const Vocabulary* vocabulary_;
  Automaton automaton_;
  Automaton::StateId state_;
  std::unordered_map<Automaton::StateId, Mask> masks_;  // by representative
};

}  // namespace m3
