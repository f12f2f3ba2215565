// What the tests of this folder share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "grammar/automaton.h"
#include "grammar/compile.h"
#include "grammar/matcher.h"
#include "text/testing.h"

namespace m3::testing {

inline std::shared_ptr<const Grammar> shared(Result<Grammar> grammar) {
  if (!grammar) {
    ADD_FAILURE() << grammar.error().message;
    return nullptr;
  }
  return std::make_shared<const Grammar>(std::move(*grammar));
}

inline std::shared_ptr<const Grammar> schema(std::string_view json) {
  return shared(schema_grammar(value_of(parse_json(json)), "schema"));
}

// Whether a grammar of bytes takes a text, byte by byte.
inline bool takes(const std::shared_ptr<const Grammar>& grammar, std::string_view text) {
  Automaton automaton(grammar);
  auto state = automaton.start();
  for (const char c : text) state = automaton.step(state, static_cast<std::uint8_t>(c));
  return automaton.can_end(state);
}

inline const Vocabulary& small_vocabulary() {
  static const Vocabulary vocabulary(small_tokenizer());
  return vocabulary;
}

// Numbers that look random and are the same every time.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : seed_(seed) {}
  std::size_t below(std::size_t end) {
    return static_cast<std::size_t>(uniform_at(seed_, 0, at_++) * static_cast<double>(end));
  }

 private:
  std::uint64_t seed_, at_ = 0;
};

// A random output, token by token, to its end. After a while it takes what leads there: the first
// of `closers` that is allowed. Fails when nothing is allowed before the end, when an allowed token
// is refused, or when there is no end.
inline std::vector<TokenId> walk(Matcher matcher, Dice& dice, std::size_t free_steps,
                                 const std::vector<TokenId>& closers) {
  constexpr std::size_t kStepsMax = 3000;
  std::vector<TokenId> output;
  std::vector<std::uint64_t> bits(small_vocabulary().mask_words());
  while (output.size() < kStepsMax) {
    if (matcher.is_complete() || (matcher.can_end() && output.size() >= free_steps)) return output;
    std::fill(bits.begin(), bits.end(), 0);
    matcher.allow(bits);
    std::vector<TokenId> allowed;
    for (TokenId id = 0; id < static_cast<TokenId>(bits.size() * 64); ++id)
      if (has_bit(bits, id)) allowed.push_back(id);
    if (allowed.empty()) {
      EXPECT_TRUE(matcher.can_end()) << "nothing may follow";
      return output;
    }
    TokenId next = allowed[dice.below(allowed.size())];
    if (output.size() >= free_steps) {
      const auto closer = std::find_if(closers.begin(), closers.end(),
                                       [&](TokenId id) { return has_bit(bits, id); });
      if (closer != closers.end()) next = *closer;
    }
    if (!matcher.accept(next)) {
      ADD_FAILURE() << "token " << next << " is allowed and refused";
      return output;
    }
    output.push_back(next);
  }
  ADD_FAILURE() << "no end: " << small_tokenizer().decode(output);
  return output;
}

// The tokens of these texts, each of which is one.
inline std::vector<TokenId> tokens_of(const std::vector<std::string_view>& texts) {
  std::vector<TokenId> ids;
  for (const std::string_view text : texts)
    ids.push_back(small_tokenizer().id_of(text).value_or(-1));
  return ids;
}

}  // namespace m3::testing
