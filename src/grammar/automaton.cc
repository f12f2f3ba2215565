#include "grammar/automaton.h"

#include <algorithm>

#include "base/check.h"
#include "base/random.h"

namespace m3 {
std::size_t Automaton::Hash::operator()(const State& state) const {
  std::uint64_t hash = state.can_end ? 1 : 0;
  for (const FrameId id : state.tops) hash = mix64(hash + kGolden * (id + 1));
  return hash;
}

Automaton::Automaton(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)) {
  states_.emplace_back();
  state_ids_.emplace(State(), kDead);
  begin_state();
  enter(grammar_->root, kBottom);
  start_ = finish_state();
}

Automaton::StateId Automaton::intern(State state) {
  const auto [it, is_new] = state_ids_.emplace(state, static_cast<StateId>(states_.size()));
  if (is_new) states_.push_back(std::move(state));
  return it->second;
}

Automaton::StateId Automaton::step_slowly(StateId from, std::uint8_t byte) {
  begin_state();
  for (const FrameId id : states_[from].tops) read_byte(id, byte, Names::kIgnored);
  const StateId to = finish_state();
  if (states_[from].table == kNoTable) {
    states_[from].table = static_cast<std::uint32_t>(tables_.size());
    tables_.resize(tables_.size() + 256, kUnknown);
  }
  tables_[states_[from].table + byte] = to;
  return to;
}

Automaton::StateId Automaton::write(StateId from, std::string_view text) {
  for (const char c : text) {
    begin_state();
    for (const FrameId id : states_[from].tops)
      read_byte(id, static_cast<std::uint8_t>(c), Names::kKept);
    from = finish_state();
  }
  return from;
}

Automaton::StateId Automaton::step_token(StateId from, TokenId id) {
  begin_state();
  for (const FrameId top : states_[from].tops) {
    const Frame frame = frames_[top];
    if (const auto* token = std::get_if<TokenNode>(&grammar_->nodes[frame.node])) {
      if (token->id == id) push(frame.below);
    } else if (const auto* element = std::get_if<ElementNode>(&grammar_->nodes[frame.node])) {
      if (element->name_space == id && frame.place == kClosing)
        push(with(frame, kClosing + 1, frame.count));
    }
  }
  return finish_state();
}

std::vector<TokenId> Automaton::tokens(StateId state) const {
  std::vector<TokenId> found;
  for (const FrameId top : states_[state].tops) {
    const Frame& frame = frames_[top];
    if (const auto* token = std::get_if<TokenNode>(&grammar_->nodes[frame.node]))
      found.push_back(token->id);
    if (const auto* element = std::get_if<ElementNode>(&grammar_->nodes[frame.node]))
      if (frame.place == kClosing) found.push_back(element->name_space);
  }
  return found;
}

void Automaton::begin_state() {
  state_.tops.clear();
  state_.can_end = false;
  work_.clear();
  ++collection_;
}

Automaton::StateId Automaton::finish_state() {
  while (!work_.empty() && state_.tops.size() < kReadingsMax) {
    const FrameId id = work_.back();
    work_.pop_back();
    if (id == kBottom) {
      state_.can_end = true;
      continue;
    }
    seen_.resize(frames_.size());
    if (seen_[id] == collection_) continue;
    seen_[id] = collection_;
    expand(id);
  }
  return intern(state_);
}

void Automaton::expand(FrameId id) {
  const Frame frame = frames_[id];  // a copy: expanding adds frames
  std::visit([&](const auto& node) { expand(id, frame, node); }, grammar_->nodes[frame.node]);
}

}  // namespace m3
