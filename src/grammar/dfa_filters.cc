#include "grammar/dfa_filters.h"

#include <algorithm>

namespace m3 {
namespace {

bool is_digit(std::uint8_t byte) {
  return byte >= '0' && byte <= '9';
}

// Every digit is a class of its own, and so are the sign and the point.
ByteClasses number_classes() {
  ByteClasses classes{};
  for (std::uint8_t i = 0; i < 10; ++i) classes['0' + i] = static_cast<std::uint8_t>(i + 1);
  classes['-'] = 11;
  classes['.'] = 12;
  return classes;
}

}  // namespace

// The state is the number of characters, and in its last three bits the bytes that are missing to
// the end of an escape: 5 behind the backslash, 4 to 1 behind the u.
ByteClasses LengthFilter::classes() const {
  ByteClasses classes{};
  for (std::size_t byte = 0x80; byte < 0xC0; ++byte) classes[byte] = 1;
  classes['\\'] = 2;
  classes['u'] = 3;
  return classes;
}

std::optional<std::uint64_t> LengthFilter::step(std::uint64_t state, std::uint8_t byte) const {
  constexpr std::uint64_t kBehindBackslash = 5;
  std::uint64_t length = state >> 3, missing = state & 7;
  if (missing == kBehindBackslash) return length << 3 | (byte == 'u' ? 4 : 0);
  if (missing > 0) return length << 3 | (missing - 1);
  if ((byte & 0xC0) == 0x80) return state;
  if (length == max_) return std::nullopt;
  // Beyond the least length there is nothing to count, unless there is a greatest one.
  const bool counts = max_ != ~std::uint64_t{0} || length < min_;
  length += counts ? 1 : 0;
  return length << 3 | (spelling_ == Spelling::kJson && byte == '\\' ? kBehindBackslash : 0);
}

namespace {

// How the digits read so far compare with the first digits of the bound.
struct BoundState {
  enum Order : std::uint64_t { kLess, kEqual, kGreater };
  std::uint64_t digits = 0;  // read in this part of the number
  std::uint64_t order = kEqual;
  bool in_fraction = false, negative = false, not_zero = false;

  static BoundState of(std::uint64_t bits) {
    return {bits >> 5, bits >> 3 & 3, (bits & 4) != 0, (bits & 2) != 0, (bits & 1) != 0};
  }
  std::uint64_t bits() const {
    return digits << 5 | order << 3 | (in_fraction ? 4u : 0u) | (negative ? 2u : 0u) |
           (not_zero ? 1u : 0u);
  }
};
static_assert(BoundState::kEqual == 1, "the state before the first digit has to be told apart");

}  // namespace

ByteClasses BoundFilter::classes() const {
  return number_classes();
}

std::uint64_t BoundFilter::start() const {
  return BoundState().bits();
}

std::optional<std::uint64_t> BoundFilter::step(std::uint64_t bits, std::uint8_t byte) const {
  BoundState state = BoundState::of(bits);
  if (byte == '-') {
    state.negative = true;
  } else if (byte == '.') {
    if (state.digits != bound_.whole.size())
      state.order = state.digits < bound_.whole.size() ? BoundState::kLess : BoundState::kGreater;
    state.in_fraction = true;
    state.digits = 0;
  } else if (is_digit(byte)) {
    const std::string& digits = state.in_fraction ? bound_.fraction : bound_.whole;
    const int with = state.digits < digits.size() ? digits[state.digits] : '0';
    if (state.order == BoundState::kEqual && byte != with)
      state.order = byte < with ? BoundState::kLess : BoundState::kGreater;
    state.not_zero = state.not_zero || byte != '0';
    // The digit 0 before the point is no digit of `whole`, which has no leading ones.
    const bool counts = state.in_fraction || state.not_zero;
    // Beyond the bound's digits their number does not matter, only that there are more.
    if (counts) state.digits = std::min<std::uint64_t>(state.digits + 1, digits.size() + 1);
  }
  return state.bits();
}

bool BoundFilter::accepts(std::uint64_t bits) const {
  BoundState state = BoundState::of(bits);
  const std::string& digits = state.in_fraction ? bound_.fraction : bound_.whole;
  if (!state.in_fraction && state.digits != digits.size()) {
    state.order = state.digits < digits.size() ? BoundState::kLess : BoundState::kGreater;
  } else if (state.order == BoundState::kEqual) {
    const bool more = state.in_fraction ? state.digits < digits.size() : !bound_.fraction.empty();
    if (more) state.order = BoundState::kLess;
  }
  const bool negative = state.negative && state.not_zero;
  if (negative != bound_.negative) {
    state.order = negative ? BoundState::kLess : BoundState::kGreater;
  } else if (negative && state.order != BoundState::kEqual) {
    state.order = BoundState::kGreater - state.order;
  }
  if (state.order == BoundState::kLess) return sides_.less;
  return state.order == BoundState::kEqual ? sides_.equal : sides_.greater;
}

ByteClasses MultipleFilter::classes() const {
  return number_classes();
}

MultipleFilter::MultipleFilter(const Decimal& divisor)
    : divisor_(std::stoull(divisor.whole + divisor.fraction)), places_(divisor.fraction.size()) {}

bool MultipleFilter::can_divide_by(const Decimal& divisor) {
  const std::size_t digits = divisor.whole.size() + divisor.fraction.size();
  return !divisor.negative && digits > 0 && digits <= 9;
}

// The state is the remainder so far, and in its last byte how many places behind the point were
// read, plus one.
std::optional<std::uint64_t> MultipleFilter::step(std::uint64_t state, std::uint8_t byte) const {
  const std::uint64_t remainder = state >> 8, places = state & 0xFF;
  if (byte == '.') return remainder << 8 | 1;
  if (!is_digit(byte)) return state;
  if (places > places_) return byte == '0' ? std::optional(state) : std::nullopt;
  return (remainder * 10 + (byte - '0')) % divisor_ << 8 | (places > 0 ? places + 1 : 0);
}

bool MultipleFilter::accepts(std::uint64_t state) const {
  std::uint64_t remainder = state >> 8;
  for (std::uint64_t place = std::max<std::uint64_t>(state & 0xFF, 1); place <= places_; ++place)
    remainder = remainder * 10 % divisor_;
  return remainder == 0;
}

std::optional<std::uint64_t> DfaFilter::step(std::uint64_t state, std::uint8_t byte) const {
  if (state == Dfa::kDead) return state;
  const std::uint32_t to = dfa_.step(static_cast<std::uint32_t>(state), byte);
  if (to == Dfa::kDead && keep_ == Keep::kAccepted) return std::nullopt;
  return to;
}

bool DfaFilter::accepts(std::uint64_t state) const {
  const bool accepted = state != Dfa::kDead && dfa_.accepting[state] != 0;
  return accepted == (keep_ == Keep::kAccepted);
}

// Only bytes that stand in a word can tell its texts apart.
ByteClasses NotWordsFilter::classes() const {
  const std::vector<bool> used = words_.bytes();
  ByteClasses classes{};
  std::uint8_t next = 0;
  for (std::size_t byte = 0; byte < 256; ++byte)
    if (used[byte]) classes[byte] = ++next;
  return classes;
}

std::optional<std::uint64_t> NotWordsFilter::step(std::uint64_t state, std::uint8_t byte) const {
  if (state == Dfa::kDead) return state;
  return words_.child(static_cast<std::uint32_t>(state), byte).value_or(Dfa::kDead);
}

bool NotWordsFilter::accepts(std::uint64_t state) const {
  return state == Dfa::kDead || !words_.word(static_cast<std::uint32_t>(state));
}

}  // namespace m3
