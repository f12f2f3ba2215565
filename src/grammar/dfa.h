// A deterministic automaton over bytes: one table look-up a byte.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "grammar/budget.h"
#include "grammar/nfa.h"

namespace m3 {

// From every state an accepting one can be reached, and the start is state 0: an automaton that
// accepts nothing has no states.
struct Dfa {
  static constexpr std::uint32_t kDead = 0xFFFFFFFF;

  std::array<std::uint8_t, 256> byte_class{};  // bytes of one class lead from a state to the same
  std::uint32_t classes = 1;
  std::vector<std::uint32_t> next;      // [states, classes]
  std::vector<std::uint8_t> accepting;  // [states]
  std::vector<std::uint8_t> open;       // [states]: some byte leads on

  bool empty() const { return accepting.empty(); }
  std::uint32_t step(std::uint32_t state, std::uint8_t byte) const {
    return next[state * classes + byte_class[byte]];
  }
  bool accepts(std::string_view text) const;
};

// Errors: the budget, which an automaton of n states may strain with up to 2^n.
Result<Dfa> determinise(const Nfa& nfa, Budget& budget);

// Drops the states from which no accepting one can be reached, and fills in `open`. For those who
// make a Dfa.
Dfa trimmed(Dfa dfa);

}  // namespace m3
