#include "grammar/nfa.h"

#include <fmt/core.h>

#include <string>
#include <string_view>

namespace m3 {
namespace {

const CodePointSet kEscapedInJson = {{0x00, 0x1F}, {'"', '"'}, {'\\', '\\'}};

constexpr std::string_view kEscapeNames = "\"\\bfnrt";
constexpr std::string_view kEscapeValues = "\"\\\b\f\n\r\t";

ByteSequence sequence_of(std::string_view text) {
  ByteSequence sequence;
  for (const char c : text)
    sequence.push_back({static_cast<std::uint8_t>(c), static_cast<std::uint8_t>(c)});
  return sequence;
}

// \u00XX for `c` and those of its neighbours up to `last` that need it and differ in the last digit
// only, within 0 to 9 or a to f. Moves `c` to the last of them.
ByteSequence hex_escapes(char32_t& c, char32_t last) {
  const std::string text = fmt::format("\\u{:04x}", static_cast<std::uint32_t>(c));
  ByteSequence sequence = sequence_of(text);
  const auto goes_on = [&](char32_t next) {
    return next <= last && next % 16 != 0 && next % 16 != 10 &&
           kEscapeValues.find(static_cast<char>(next)) == kEscapeValues.npos;
  };
  for (; goes_on(c + 1); ++c) ++sequence.back().last;
  return sequence;
}

std::vector<ByteSequence> spellings(const CodePointSet& set, Spelling spelling) {
  if (spelling == Spelling::kPlain) return utf8_sequences(set);
  const CodePointSet plain = without(set, kEscapedInJson);
  std::vector<ByteSequence> sequences = utf8_sequences(plain);
  for (const CodePointRange& range : without(set, plain))
    for (char32_t c = range.first; c <= range.last; ++c) {
      const std::size_t which = kEscapeValues.find(static_cast<char>(c));
      sequences.push_back(which == kEscapeValues.npos
                              ? hex_escapes(c, range.last)
                              : sequence_of(std::string{'\\', kEscapeNames[which]}));
    }
  return sequences;
}

// Thompson's construction. Each call leads from `from` to the state that it returns.
class Builder {
 public:
  Builder(Spelling spelling, Budget& budget) : spelling_(spelling), budget_(budget) {}

  Result<Nfa> build(const Regex& regex) && {
    M3_TRY(nfa_.start, new_state());
    M3_TRY(nfa_.accept, add(regex, nfa_.start));
    return std::move(nfa_);
  }

 private:
  using Id = std::uint32_t;
  using When = Nfa::Jump::When;

  Result<Id> new_state() {
    constexpr std::size_t kStateUnits = 100;
    M3_TRY_STATUS(budget_.spend(kStateUnits));
    nfa_.states.emplace_back();
    return static_cast<Id>(nfa_.states.size() - 1);
  }

  void jump(Id from, Id to, When when = When::kAlways) {
    nfa_.states[from].jumps.push_back({when, to});
  }

  Result<Id> add(const Regex& regex, Id from) {
    switch (regex.kind) {
      case Regex::Kind::kSet:
        return add_set(regex.set, from);
      case Regex::Kind::kSequence:
        for (const Regex& part : regex.parts) {
          M3_TRY(from, add(part, from));
        }
        return from;
      case Regex::Kind::kEither:
        return add_either(regex, from);
      case Regex::Kind::kRepeat:
        return add_repeat(regex, from);
      case Regex::Kind::kBegin:
        return add_anchor(from, When::kAtBegin);
      case Regex::Kind::kEnd:
        return add_anchor(from, When::kAtEnd);
    }
    return from;
  }

  Result<Id> add_set(const CodePointSet& set, Id from) {
    M3_TRY(const Id to, new_state());
    for (const ByteSequence& sequence : spellings(set, spelling_)) {
      Id at = from;
      for (std::size_t i = 0; i < sequence.size(); ++i) {
        Id next = to;
        if (i + 1 < sequence.size()) {
          M3_TRY(next, new_state());
        }
        nfa_.states[at].edges.push_back({sequence[i], next});
        at = next;
      }
    }
    return to;
  }

  Result<Id> add_either(const Regex& regex, Id from) {
    M3_TRY(const Id to, new_state());
    for (const Regex& part : regex.parts) {
      M3_TRY(const Id begin, new_state());
      jump(from, begin);
      M3_TRY(const Id end, add(part, begin));
      jump(end, to);
    }
    return to;
  }

  Result<Id> add_repeat(const Regex& regex, Id from) {
    const Regex& part = regex.parts[0];
    for (std::uint32_t i = 0; i < regex.min; ++i) {
      M3_TRY(from, add(part, from));
    }
    if (regex.max == Regex::kUnlimited) return add_loop(part, from);
    M3_TRY(const Id to, new_state());
    jump(from, to);
    for (std::uint32_t i = regex.min; i < regex.max; ++i) {
      M3_TRY(from, add(part, from));
      jump(from, to);
    }
    return to;
  }

  Result<Id> add_loop(const Regex& part, Id from) {
    M3_TRY(const Id loop, new_state());
    jump(from, loop);
    M3_TRY(const Id end, add(part, loop));
    jump(end, loop);
    M3_TRY(const Id to, new_state());
    jump(loop, to);
    return to;
  }

  Result<Id> add_anchor(Id from, When when) {
    M3_TRY(const Id to, new_state());
    jump(from, to, when);
    return to;
  }

  Spelling spelling_;
  Budget& budget_;
  Nfa nfa_;
};

}  // namespace

Result<Nfa> build_nfa(const Regex& regex, Spelling spelling, Budget& budget) {
  return Builder(spelling, budget).build(regex);
}

}  // namespace m3
