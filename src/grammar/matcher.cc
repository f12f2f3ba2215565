#include "grammar/matcher.h"

#include <bitset>
#include <utility>

#include "base/check.h"

namespace m3 {
namespace {

constexpr std::size_t kMasksMax = 128;  // 25 kB each

// How many readings of a state may be moved on by how many bytes for one mask: about 20 ms. It is
// what keeps masks of hostile grammars from taking seconds; those of ordinary ones take a few
// percent of it.
constexpr std::size_t kReadingsBudget = 250'000;

// Reads the tree of all tokens from one state, leaving out what begins with something impossible.
// Where the budget ends, everything that has not come up yet counts as impossible. What that is
// depends on the state alone, never on what the automaton happens to remember: the same output has
// the same masks every time. Single bytes are always tried.
class Walk {
 public:
  Walk(const Vocabulary& vocabulary, Automaton& automaton, Automaton::StateId start)
      : vocabulary_(vocabulary),
        automaton_(automaton),
        path_(vocabulary.token_bytes_max() + 1, start) {}

  void collect(std::span<std::uint64_t> mask) {
    const auto nodes = vocabulary_.nodes();
    for (std::size_t at = 0; at < nodes.size();) {
      const Vocabulary::Node& node = nodes[at];
      const auto from = path_[node.depth - 1u];
      if (node.depth > 1 && !covers(from, node.byte)) {
        at = node.end;
        continue;
      }
      const auto state = automaton_.step(from, node.byte);
      if (state == Automaton::kDead) {
        at = node.end;
        continue;
      }
      path_[node.depth] = state;
      const bool all_below = node.plain && node.end > at + 1 && is_loop(state);
      for (const TokenId id : all_below ? vocabulary_.tokens_from(at) : vocabulary_.tokens(at))
        set_bit(mask, id);
      at = all_below ? node.end : at + 1;
    }
  }

 private:
  enum class Loop : std::uint8_t { kUnknown, kNo, kYes };
  struct Met {
    std::bitset<256> bytes;
    Loop loop = Loop::kUnknown;
  };

  Met& met(Automaton::StateId state) {
    if (state >= met_.size()) met_.resize(state + 256);
    return met_[state];
  }

  // Whether the budget covers this step; what was done once costs nothing.
  bool covers(Automaton::StateId from, std::uint8_t byte) {
    Met& state = met(from);
    if (state.bytes[byte]) return true;
    // The first step of a state brings it a table.
    constexpr std::size_t kTableCost = 16;
    const std::size_t cost = automaton_.readings(from) + (state.bytes.none() ? kTableCost : 0);
    if (spent_ + cost > kReadingsBudget) return false;
    spent_ += cost;
    state.bytes[byte] = true;
    return true;
  }

  // Whether every plain byte leads from a state to itself, as inside of free text.
  bool is_loop(Automaton::StateId state) {
    if (const Loop known = met(state).loop; known != Loop::kUnknown) return known == Loop::kYes;
    bool loop = true;
    for (int byte = 0; byte < 256 && loop; ++byte) {
      const auto plain = static_cast<std::uint8_t>(byte);
      if (Vocabulary::is_plain(plain))
        loop = covers(state, plain) && automaton_.step(state, plain) == state;
    }
    met(state).loop = loop ? Loop::kYes : Loop::kNo;
    return loop;
  }

  const Vocabulary& vocabulary_;
  Automaton& automaton_;
  std::vector<Automaton::StateId> path_;  // by depth
  std::vector<Met> met_;                  // by state
  std::size_t spent_ = 0;
};

}  // namespace

Matcher::Matcher(std::shared_ptr<const Grammar> grammar, const Vocabulary& vocabulary)
    : vocabulary_(&vocabulary), automaton_(std::move(grammar)), state_(automaton_.start()) {}

void Matcher::allow(std::span<std::uint64_t> bits) {
  M3_CHECK(bits.size() >= vocabulary_->mask_words(), "a set of {} words", bits.size());
  tidy();
  const Mask& allowed = mask();
  for (std::size_t i = 0; i < allowed.size(); ++i) bits[i] |= allowed[i];
}

bool Matcher::accept(TokenId id) {
  const bool is_text = vocabulary_->is_text(id);
  const auto next = is_text ? automaton_.write(state_, vocabulary_->tokenizer().bytes(id))
                            : automaton_.step_token(state_, id);
  if (!automaton_.is_open(next) && !automaton_.can_end(next)) return false;
  state_ = next;
  tidy();
  return true;
}

void Matcher::tidy() {
  const std::uint32_t generation = automaton_.generation();
  state_ = automaton_.tidy(state_);
  if (automaton_.generation() != generation) masks_.clear();
}

const Matcher::Mask& Matcher::mask() {
  const auto state = automaton_.representative(state_, vocabulary_->token_bytes_max());
  const auto known = masks_.find(state);
  if (known != masks_.end()) return known->second;
  if (masks_.size() == kMasksMax) masks_.clear();
  Mask& mask = masks_[state];
  mask.resize(vocabulary_->mask_words());
  Walk(*vocabulary_, automaton_, state).collect(mask);
  for (const TokenId id : automaton_.tokens(state))
    if (vocabulary_->tokenizer().has_string(id)) set_bit(mask, id);
  return mask;
}

}  // namespace m3
