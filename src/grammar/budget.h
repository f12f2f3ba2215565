// What compiling one grammar may cost. Requests bring schemas and patterns of any size, and small
// ones that stand for huge automata: every part of the compiler says beforehand what it is about to
// do, and stops with an error once the whole would take seconds or hundreds of megabytes.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace m3 {

class Budget {
 public:
  // A unit is about ten nanoseconds and four bytes, if anything stays.
  static constexpr std::int64_t kUnits = 20'000'000;
  explicit Budget(std::int64_t units = kUnits) : left_(units) {}

  // Errors: the budget does not cover this any more.
  Status spend(std::size_t units) {
    left_ -= static_cast<std::int64_t>(units);
    if (left_ < 0) return fail("it is too large or too ambiguous to be compiled");
    return {};
  }

 private:
  std::int64_t left_;
};

}  // namespace m3
