// How an automaton stays small: states that count as one, and states that are forgotten.
#include <algorithm>
#include <utility>

#include "grammar/automaton.h"

namespace m3 {
namespace {

constexpr std::size_t kFramesMax = 1 << 18;
constexpr std::size_t kTablesMax = 256 << 13;

// A count of rounds from which `bytes` more of them meet the same limits, or none, as from `count`.
std::uint64_t canonical_rounds(const RepeatNode& node, std::uint64_t count, std::uint64_t bytes) {
  const std::uint64_t least = count == 0 ? 0 : 1;  // the first round is a special one
  if (count < node.min && node.min - count > bytes) return least;
  const bool far_from_max = node.max == RepeatNode::kUnlimited || node.max - count > bytes;
  if (count >= node.min && far_from_max) return std::max(node.min, least);
  return count;
}

}  // namespace

Automaton::StateId Automaton::representative(StateId state, std::size_t bytes) {
  State found;
  found.can_end = states_[state].can_end;
  for (const FrameId top : std::vector(states_[state].tops))
    found.tops.push_back(canonical(top, bytes));
  // Two readings that only their counts tell apart are two; keep it simple.
  std::vector<FrameId> sorted = found.tops;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) return state;
  return intern(std::move(found));
}

FrameId Automaton::canonical(FrameId id, std::uint64_t bytes) {
  canonical_.resize(frames_.size(), kUnknown);
  canonical_[kBottom] = kBottom;
  std::vector<FrameId> path;  // down to a frame whose canonical one is known
  for (FrameId at = id; canonical_[at] == kUnknown; at = frames_[at].below) path.push_back(at);
  for (; !path.empty(); path.pop_back()) {
    const Frame at = frames_[path.back()];
    std::uint64_t count = at.count;
    if (const auto* repeat = std::get_if<RepeatNode>(&grammar_->nodes[at.node]))
      count = canonical_rounds(*repeat, count, bytes);
    canonical_[path.back()] = frames_.find_or_add(at.node, at.place, count, canonical_[at.below]);
  }
  return canonical_[id];
}

Automaton::StateId Automaton::tidy(StateId state) {
  if (frames_.size() <= kFramesMax && tables_.size() <= kTablesMax) return state;
  const FrameTable from = std::exchange(frames_, {});
  State kept = std::move(states_[state]);
  kept.table = kNoTable;
  canonical_.clear();
  seen_.clear();
  tables_.clear();
  states_.assign(1, State());
  state_ids_.clear();
  state_ids_.emplace(State(), kDead);
  std::vector<FrameId> names(from.size(), kUnknown);
  names[kBottom] = kBottom;
  for (FrameId& top : kept.tops) top = moved(top, from, names);
  start_ = kDead;
  ++generation_;
  return intern(std::move(kept));
}

FrameId Automaton::moved(FrameId id, const FrameTable& from, std::vector<FrameId>& names) {
  std::vector<FrameId> path;
  for (FrameId at = id; names[at] == kUnknown; at = from[at].below) path.push_back(at);
  for (; !path.empty(); path.pop_back()) {
    const Frame& at = from[path.back()];
    names[path.back()] = frames_.find_or_add(at.node, at.place, at.count, names[at.below]);
  }
  return names[id];
}

}  // namespace m3
