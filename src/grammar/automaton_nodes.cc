// What each kind of node does with a frame: how it is expanded until it waits, and what it does
// with a byte.
#include <algorithm>

#include "base/check.h"
#include "grammar/automaton.h"

namespace m3 {
namespace {

// Places of a RepeatNode.
constexpr std::uint32_t kRoundEnd = 0;  // also before the first round
constexpr std::uint32_t kItemDue = 1;

// Places of a FieldsNode; from kInKey on, nodes of the trie of its keys.
constexpr std::uint32_t kMemberEnd = 0;  // also before the first member
constexpr std::uint32_t kKeyDue = 1;
constexpr std::uint32_t kInKey = 2;

// Which members an object has so far, packed into the count of its frame.
class Members {
 public:
  Members(const FieldsNode& node, std::uint64_t count)
      : node_(node), started_((count & 1) != 0), progress_(count >> 1) {}

  std::uint64_t count() const { return progress_ << 1 | (started_ ? 1 : 0); }
  bool started() const { return started_; }
  bool may_end() const {
    if (listed()) return node_.next_required[progress_] == node_.fields.size();
    return progress_ >= node_.required;
  }
  // `hurry`: only what has to be there.
  bool may_go_on(bool hurry) const {
    if (!may_end()) return true;
    if (hurry) return false;
    return node_.extra != kNoNode ||
           (listed() ? progress_ < node_.fields.size() : taken() != all());
  }
  bool may_have(std::uint64_t field, bool hurry) const {
    if (hurry && !node_.fields[field].required) return false;
    if (listed()) return field >= progress_ && field <= node_.next_required[progress_];
    if (progress_ < node_.required) return field == progress_;
    return field >= node_.required && (taken() >> (field - node_.required) & 1) == 0;
  }

  Members with(std::uint64_t field) const {
    Members next = *this;
    next.started_ = true;
    if (listed()) {
      next.progress_ = field + 1;
    } else if (progress_ < node_.required) {
      next.progress_ = field + 1;
    } else {
      next.progress_ = node_.required + (taken() | std::uint64_t{1} << (field - node_.required));
    }
    return next;
  }
  // Others come behind all that are listed.
  Members with_extra() const {
    Members next = *this;
    next.started_ = true;
    if (listed()) next.progress_ = node_.fields.size();
    return next;
  }

 private:
  bool listed() const { return node_.order == FieldsNode::Order::kAsListed; }
  // In any order: one bit for each optional field, above the number of the required ones.
  std::uint64_t taken() const { return progress_ - node_.required; }
  std::uint64_t all() const {
    return (std::uint64_t{1} << (node_.fields.size() - node_.required)) - 1;
  }

  const FieldsNode& node_;
  bool started_;
  // As listed: the next field. In any order: the required ones that are there, then taken().
  std::uint64_t progress_;
};

}  // namespace

void Automaton::expand(FrameId, const Frame& frame, const std::monostate&) {
  M3_CHECK(false, "node {} was never defined", frame.node);
}

void Automaton::expand(FrameId id, const Frame& frame, const LexemeNode& node) {
  const Dfa& dfa = grammar_->dfas[node.dfa];
  if (dfa.accepting[frame.place]) push(frame.below);
  if (dfa.open[frame.place]) wait(id);
}

void Automaton::expand(FrameId id, const Frame& frame, const WordsNode& node) {
  const WordTrie& trie = grammar_->tries[node.trie];
  if (const auto word = trie.word(frame.place)) {
    if (node.targets.empty()) {
      push(frame.below);
    } else {
      enter(node.targets[*word], frame.below);
    }
  }
  if (trie.has_children(frame.place)) wait(id);
}

void Automaton::expand(FrameId id, const Frame&, const TokenNode&) {
  wait(id);
}

void Automaton::expand(FrameId, const Frame& frame, const SequenceNode& node) {
  if (frame.place == node.parts.size()) {
    push(frame.below);
    return;
  }
  // The last part needs nobody to come back to, so that lists of lists do not pile up frames.
  const bool last = frame.place + 1 == node.parts.size();
  enter(node.parts[frame.place], last ? frame.below : with(frame, frame.place + 1, 0));
}

void Automaton::expand(FrameId, const Frame& frame, const ChoiceNode& node) {
  if (is_deep(frame)) {
    NodeId shortest = node.options[0];
    for (const NodeId option : node.options)
      if (grammar_->ranks[option] < grammar_->ranks[shortest]) shortest = option;
    enter(shortest, frame.below);
    return;
  }
  for (const NodeId option : node.options) enter(option, frame.below);
}

void Automaton::expand(FrameId, const Frame& frame, const RepeatNode& node) {
  if (frame.place == kRoundEnd) {
    const bool enough = frame.count >= node.min;
    if (enough) push(frame.below);
    if (frame.count == node.max || (enough && is_deep(frame))) return;
    const NodeId separator = frame.count == 0 ? node.first : node.between;
    const FrameId due = with(frame, kItemDue, frame.count);
    separator == kNoNode ? push(due) : enter(separator, due);
    return;
  }
  // Without a greatest number there is nothing to count beyond the least.
  const bool counts = node.max != RepeatNode::kUnlimited || frame.count < std::max(node.min, 1ul);
  enter(node.item, with(frame, kRoundEnd, frame.count + (counts ? 1 : 0)));
}

void Automaton::expand(FrameId id, const Frame& frame, const FieldsNode& node) {
  if (frame.place >= kInKey) return expand_key(id, frame, node);
  const Members members(node, frame.count);
  const bool hurry = is_deep(frame);
  if (frame.place == kMemberEnd) {
    if (members.may_end()) push(frame.below);
    if (!members.may_go_on(hurry)) return;
    const NodeId separator = members.started() ? node.between : node.first;
    const FrameId due = with(frame, kKeyDue, frame.count);
    separator == kNoNode ? push(due) : enter(separator, due);
    return;
  }
  for (std::uint64_t field = 0; field < node.fields.size(); ++field)
    if (members.may_have(field, hurry)) {
      push(with(frame, kInKey, frame.count));
      break;
    }
  if (node.extra != kNoNode && members.may_end() && !hurry)
    enter(node.extra, with(frame, kMemberEnd, members.with_extra().count()));
}

void Automaton::expand_key(FrameId id, const Frame& frame, const FieldsNode& node) {
  const WordTrie& trie = grammar_->tries[node.trie];
  const std::uint32_t at = frame.place - kInKey;
  const Members members(node, frame.count);
  const auto field = trie.word(at);
  const auto is_possible = [&](std::uint32_t word) {
    return members.may_have(word, is_deep(frame));
  };
  if (field && is_possible(*field))
    enter(node.fields[*field].value, with(frame, kMemberEnd, members.with(*field).count()));
  const auto words = trie.words(at).subspan(field ? 1 : 0);
  if (std::any_of(words.begin(), words.end(), is_possible)) wait(id);
}

void Automaton::expand(FrameId id, const Frame& frame, const ElementNode&) {
  const bool closed =
      frame.place > kClosing && frame.place - kClosing - 1 == closing_tag(frame).size();
  closed ? push(frame.below) : wait(id);
}

// The frame waits; with this byte it goes on or is gone.
void Automaton::read_byte(FrameId id, std::uint8_t byte, Names names) {
  const Frame frame = frames_[id];
  const Node& node = grammar_->nodes[frame.node];
  if (const auto* lexeme = std::get_if<LexemeNode>(&node)) {
    const std::uint32_t to = grammar_->dfas[lexeme->dfa].step(frame.place, byte);
    if (to != Dfa::kDead) push(with(frame, to, 0));
  } else if (const auto* words = std::get_if<WordsNode>(&node)) {
    if (const auto to = grammar_->tries[words->trie].child(frame.place, byte))
      push(with(frame, *to, 0));
  } else if (const auto* fields = std::get_if<FieldsNode>(&node)) {
    if (const auto to = grammar_->tries[fields->trie].child(frame.place - kInKey, byte))
      push(with(frame, *to + kInKey, frame.count));
  } else if (const auto* element = std::get_if<ElementNode>(&node)) {
    read_element(frame, *element, byte, names);
  }
}

std::string Automaton::closing_tag(const Frame& frame) const {
  return fmt::format("</{}>", names_[frame.count]);
}

void Automaton::read_element(const Frame& frame, const ElementNode& node, std::uint8_t byte,
                             Names names) {
  if (frame.place > kClosing) {
    if (static_cast<std::uint8_t>(closing_tag(frame)[frame.place - kClosing - 1]) == byte)
      push(with(frame, frame.place + 1, frame.count));
  } else if (frame.place < kClosing) {
    const Dfa& keys = grammar_->dfas[node.keys];
    if (byte == '>' && keys.accepting[frame.place])
      return enter(node.value, with(frame, kClosing, frame.count));
    const std::uint32_t to = keys.step(frame.place, byte);
    if (to == Dfa::kDead) return;
    push(with(frame, to, names == Names::kKept ? extended_name(frame.count, byte) : 0));
  }
}

std::uint64_t Automaton::extended_name(std::uint64_t name, std::uint8_t byte) {
  std::string longer = names_[name] + static_cast<char>(byte);
  const auto [it, is_new] = name_ids_.emplace(std::move(longer), names_.size());
  if (is_new) names_.push_back(it->first);
  return it->second;
}

}  // namespace m3
