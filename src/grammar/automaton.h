// A grammar at work: the ways in which the text so far can be read, and how a byte or a special
// token changes them.
//
// A reading is a stack of frames, each a node of the grammar and the place inside it. Stacks grow
// at their tops and share all below, so a frame is its node, its place and the frame underneath;
// equal frames are one. A state is the set of the tops that wait for a byte or a token. What a
// state becomes with a byte is remembered, so that after a while only tables are read.
//
// Everything is bounded, whatever the grammar: a state keeps kReadingsMax readings, and the further
// ones are forgotten, which loses possible outputs but never allows a wrong one; beyond kDepthMax
// frames every node takes its shortest way to an end.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "grammar/frame_table.h"
#include "grammar/grammar.h"

namespace m3 {

// Not for several threads at once; copies are independent.
class Automaton {
 public:
  using StateId = std::uint32_t;
  static constexpr StateId kDead = 0;  // the state of no readings
  static constexpr std::size_t kReadingsMax = 512;
  // Two or three frames make a level of JSON, of which parse_json() takes kJsonDepthMax.
  static constexpr std::uint32_t kDepthMax = 800;

  explicit Automaton(std::shared_ptr<const Grammar> grammar);

  StateId start() const { return start_; }
  StateId step(StateId from, std::uint8_t byte) {
    const std::uint32_t table = states_[from].table;
    if (table != kNoTable) {
      const StateId known = tables_[table + byte];
      if (known != kUnknown) return known;
    }
    return step_slowly(from, byte);
  }
  // As step() over all bytes, for text that is really written: the keys that it chooses are kept
  // for the tags that close them.
  StateId write(StateId from, std::string_view text);
  StateId step_token(StateId from, TokenId id);

  // The text may end here.
  bool can_end(StateId state) const { return states_[state].can_end; }
  // It may go on.
  bool is_open(StateId state) const { return !states_[state].tops.empty(); }
  std::size_t readings(StateId state) const { return states_[state].tops.size(); }
  // The special tokens that may come next.
  std::vector<TokenId> tokens(StateId state) const;

  // A state that the next `bytes` bytes do not tell from this one: repetitions that are far from
  // their limits count as if they were at the start.
  StateId representative(StateId state, std::size_t bytes);

  // Forgets all other states when there are many. Returns the new name of this one.
  StateId tidy(StateId state);
  // Increases whenever states got new names.
  std::uint32_t generation() const { return generation_; }

 private:
  static constexpr std::uint32_t kNoTable = 0xFFFFFFFF;
  static constexpr StateId kUnknown = 0xFFFFFFFF;
  static constexpr FrameId kBottom = FrameTable::kBottom;
  enum class Names { kKept, kIgnored };
  // Places of an ElementNode: below it, states of the automaton of its keys.
  static constexpr std::uint32_t kClosing = 1u << 31;  // the namespace token is due, then "</key>"

  struct State {
    std::vector<FrameId> tops;
    bool can_end = false;
    std::uint32_t table = kNoTable;  // where it begins in tables_
    bool operator==(const State& other) const {
      return tops == other.tops && can_end == other.can_end;
    }
  };
  struct Hash {
    std::size_t operator()(const State& state) const;
  };

  FrameId with(const Frame& frame, std::uint32_t place, std::uint64_t count) {
    return frames_.find_or_add(frame.node, place, count, frame.below);
  }
  StateId intern(State state);
  StateId step_slowly(StateId from, std::uint8_t byte);

  // Collecting the readings of a state: what was begun is expanded until it waits.
  void begin_state();
  void push(FrameId frame) { work_.push_back(frame); }
  void enter(NodeId node, FrameId below) { push(frames_.find_or_add(node, 0, 0, below)); }
  StateId finish_state();
  void expand(FrameId id);
  void wait(FrameId id) { state_.tops.push_back(id); }
  void read_byte(FrameId id, std::uint8_t byte, Names names);

  bool is_deep(const Frame& frame) const { return frame.depth >= kDepthMax; }
  void expand(FrameId id, const Frame& frame, const std::monostate& node);
  void expand(FrameId id, const Frame& frame, const LexemeNode& node);
  void expand(FrameId id, const Frame& frame, const WordsNode& node);
  void expand(FrameId id, const Frame& frame, const TokenNode& node);
  void expand(FrameId id, const Frame& frame, const SequenceNode& node);
  void expand(FrameId id, const Frame& frame, const ChoiceNode& node);
  void expand(FrameId id, const Frame& frame, const RepeatNode& node);
  void expand(FrameId id, const Frame& frame, const FieldsNode& node);
  void expand(FrameId id, const Frame& frame, const ElementNode& node);
  void expand_key(FrameId id, const Frame& frame, const FieldsNode& node);
  std::string closing_tag(const Frame& frame) const;
  void read_element(const Frame& frame, const ElementNode& node, std::uint8_t byte, Names names);
  std::uint64_t extended_name(std::uint64_t name, std::uint8_t byte);

  FrameId canonical(FrameId id, std::uint64_t bytes);
  FrameId moved(FrameId id, const FrameTable& from, std::vector<FrameId>& names);

  std::shared_ptr<const Grammar> grammar_;
  FrameTable frames_;
  std::vector<FrameId> canonical_;  // by frame; kUnknown: not asked for yet
  std::vector<State> states_;
  std::unordered_map<State, StateId, Hash> state_ids_;
  std::vector<StateId> tables_;  // 256 for each state that has a table
  StateId start_ = kDead;
  std::uint32_t generation_ = 0;
  std::vector<std::string> names_ = {
      ""};  // the keys of elements that were written, and their beginnings
  std::unordered_map<std::string, std::uint64_t> name_ids_;

  // The state that is being collected.
  State state_;
  std::vector<FrameId> work_;
  std::vector<std::uint32_t> seen_;  // by frame: the collection that last met it
  std::uint32_t collection_ = 0;
};

}  // namespace m3
