// What a regular expression says badly or not at all, as a second automaton that reads along: a
// length, a bound, a multiple, other texts to be met or avoided. A filter has
//   Classes classes() const;                       bytes of one class are all the same to it
//   std::uint64_t start() const;                   the state before the first byte
//   std::optional<std::uint64_t> step(state, byte) const;  nothing: no text goes on like this
//   bool accepts(state) const;
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "grammar/budget.h"
#include "grammar/decimal.h"
#include "grammar/dfa.h"
#include "grammar/word_trie.h"

namespace m3 {

using ByteClasses = std::array<std::uint8_t, 256>;

// Texts of `min` to `max` characters, spelt as build_nfa() spells them.
class LengthFilter {
 public:
  LengthFilter(std::uint64_t min, std::uint64_t max, Spelling spelling)
      : min_(min), max_(max), spelling_(spelling) {}
  ByteClasses classes() const;
  std::uint64_t start() const { return 0; }
  std::optional<std::uint64_t> step(std::uint64_t state, std::uint8_t byte) const;
  bool accepts(std::uint64_t state) const { return state >> 3 >= min_ && state >> 3 <= max_; }

 private:
  std::uint64_t min_, max_;
  Spelling spelling_;
};

// Numbers without exponent on one side of a bound. "-0" counts as 0.
class BoundFilter {
 public:
  struct Sides {
    bool less, equal, greater;  // than the bound
  };
  BoundFilter(Decimal bound, Sides sides) : bound_(std::move(bound)), sides_(sides) {}
  ByteClasses classes() const;
  std::uint64_t start() const;
  std::optional<std::uint64_t> step(std::uint64_t state, std::uint8_t byte) const;
  bool accepts(std::uint64_t state) const;

 private:
  Decimal bound_;
  Sides sides_;
};

// Numbers without exponent that are multiples of `divisor`, a positive one of at most nine digits.
class MultipleFilter {
 public:
  explicit MultipleFilter(const Decimal& divisor);
  static bool can_divide_by(const Decimal& divisor);
  ByteClasses classes() const;
  std::uint64_t start() const { return 0; }
  std::optional<std::uint64_t> step(std::uint64_t state, std::uint8_t byte) const;
  bool accepts(std::uint64_t state) const;

 private:
  // All is counted in the last decimal place of the divisor.
  std::uint64_t divisor_;
  std::uint64_t places_;
};

// Texts that another automaton accepts, or those that it does not.
class DfaFilter {
 public:
  enum class Keep { kAccepted, kRefused };
  DfaFilter(const Dfa& dfa, Keep keep) : dfa_(dfa), keep_(keep) {}
  ByteClasses classes() const { return dfa_.byte_class; }
  std::uint64_t start() const { return dfa_.empty() ? Dfa::kDead : 0; }
  std::optional<std::uint64_t> step(std::uint64_t state, std::uint8_t byte) const;
  bool accepts(std::uint64_t state) const;

 private:
  const Dfa& dfa_;
  Keep keep_;
};

// Texts that are none of these words.
class NotWordsFilter {
 public:
  explicit NotWordsFilter(const WordTrie& words) : words_(words) {}
  ByteClasses classes() const;
  std::uint64_t start() const { return 0; }
  std::optional<std::uint64_t> step(std::uint64_t state, std::uint8_t byte) const;
  bool accepts(std::uint64_t state) const;

 private:
  const WordTrie& words_;
};

// The texts that both accept. Errors: the budget.
template <typename Filter>
Result<Dfa> filtered(const Dfa& dfa, const Filter& filter, Budget& budget) {
  Dfa product;
  std::vector<std::uint8_t> sample;  // a byte of each class
  const ByteClasses other = filter.classes();
  std::map<std::pair<std::uint8_t, std::uint8_t>, std::uint8_t> joint;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const auto [it, is_new] = joint.emplace(std::pair(dfa.byte_class[byte], other[byte]),
                                            static_cast<std::uint8_t>(joint.size()));
    if (is_new) sample.push_back(static_cast<std::uint8_t>(byte));
    product.byte_class[byte] = it->second;
  }
  product.classes = static_cast<std::uint32_t>(sample.size());

  using Pair = std::pair<std::uint32_t, std::uint64_t>;
  std::map<Pair, std::uint32_t> ids;
  std::vector<Pair> pairs;
  const auto id_of = [&](Pair pair) {
    const auto [it, is_new] = ids.emplace(pair, static_cast<std::uint32_t>(pairs.size()));
    if (is_new) {
      pairs.push_back(pair);
      product.accepting.push_back(dfa.accepting[pair.first] && filter.accepts(pair.second));
    }
    return it->second;
  };
  if (!dfa.empty()) id_of({0, filter.start()});
  for (std::size_t at = 0; at < pairs.size(); ++at) {
    M3_TRY_STATUS(budget.spend(40 + 4 * product.classes));
    for (const std::uint8_t byte : sample) {
      const auto [first, second] = pairs[at];
      const std::uint32_t to = dfa.step(first, byte);
      const auto along = to == Dfa::kDead ? std::nullopt : filter.step(second, byte);
      product.next.push_back(along ? id_of({to, *along}) : Dfa::kDead);
    }
  }
  return trimmed(std::move(product));
}

}  // namespace m3
