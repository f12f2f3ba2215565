// Numbers as the digits that spell them, of any size: bounds are compared with what a model writes,
// digit by digit.
#pragma once

#include <optional>
#include <string>

#include "text/json.h"

namespace m3 {

// No leading zeros in `whole`, no trailing ones in `fraction`: both empty is zero, which is not
// negative.
struct Decimal {
  bool negative = false;
  std::string whole, fraction;

  bool is_integer() const { return fraction.empty(); }
  bool operator==(const Decimal&) const = default;
};

// Of a JSON number, floats by the shortest digits that read back as the same.
Decimal decimal_of(const Json& number);

// Negative, zero or positive as a is below, equal to or above b.
int compare(const Decimal& a, const Decimal& b);

// The value, when it is a whole number that fits.
std::optional<std::uint32_t> small_integer(const Decimal& number);

}  // namespace m3
