// What an answer may say, token by token: a grammar, as the engine sees it.
#pragma once

#include <cstdint>
#include <span>

namespace m3 {

class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // Before each draw: sets the bits of the ids that may follow, of as many words as hold the
  // model's vocabulary, and clears the others. False: any id may, and the bits are left as they
  // are.
  virtual bool allowed(std::span<std::uint64_t> bits) = 0;
  // After it. `id` was allowed.
  virtual void accept(std::int32_t id) = 0;
};

}  // namespace m3
