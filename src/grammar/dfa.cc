#include "grammar/dfa.h"

#include <algorithm>
#include <string>
#include <unordered_map>

namespace m3 {
namespace {

using Set = std::u32string;  // sorted states; a string because those can be hashed

// The bytes that no edge tells apart share a class.
void find_classes(const Nfa& nfa, Dfa& dfa) {
  std::array<bool, 257> begins{};
  for (const Nfa::State& state : nfa.states)
    for (const Nfa::Edge& edge : state.edges) {
      begins[edge.bytes.first] = true;
      begins[edge.bytes.last + 1u] = true;
    }
  std::uint8_t current = 0;
  for (std::size_t byte = 1; byte < 256; ++byte) {
    if (begins[byte]) ++current;
    dfa.byte_class[byte] = current;
  }
  dfa.classes = current + 1u;
}

class Determiniser {
 public:
  Determiniser(const Nfa& nfa, Budget& budget)
      : nfa_(nfa), budget_(budget), mark_(nfa.states.size()) {}

  Result<Dfa> run() {
    find_classes(nfa_, dfa_);
    std::array<std::uint8_t, 256> sample{};  // by class
    for (int byte = 255; byte >= 0; --byte)
      sample[dfa_.byte_class[static_cast<std::size_t>(byte)]] = static_cast<std::uint8_t>(byte);
    M3_TRY_STATUS(id_of(closure({static_cast<char32_t>(nfa_.start)}, true), true));
    for (std::size_t at = 0; at < sets_.size(); ++at)
      for (std::uint32_t c = 0; c < dfa_.classes; ++c) {
        const Set moved = move(*sets_[at], sample[c]);
        M3_TRY_STATUS(budget_.spend(1 + sets_[at]->size() / 4));
        if (moved.empty()) continue;
        M3_TRY(const std::uint32_t to, id_of(closure(moved, false), false));
        dfa_.next[at * dfa_.classes + c] = to;
      }
    return trimmed(std::move(dfa_));
  }

 private:
  using When = Nfa::Jump::When;

  Result<std::uint32_t> id_of(Set set, bool at_begin) {
    const auto [it, is_new] =
        ids_.emplace(std::move(set), static_cast<std::uint32_t>(sets_.size()));
    if (!is_new) return it->second;
    M3_TRY_STATUS(budget_.spend(20 + 2 * dfa_.classes + it->first.size()));
    sets_.push_back(&it->first);
    dfa_.next.resize(dfa_.next.size() + dfa_.classes, Dfa::kDead);
    dfa_.accepting.push_back(accepts(it->first, at_begin));
    return it->second;
  }

  Set move(const Set& set, std::uint8_t byte) {
    Set moved;
    for (const char32_t state : set)
      for (const Nfa::Edge& edge : nfa_.states[state].edges)
        if (edge.bytes.first <= byte && byte <= edge.bytes.last) moved.push_back(edge.to);
    return moved;
  }

  Set closure(Set set, bool at_begin, bool at_end = false) {
    ++marks_;
    Set found;
    while (!set.empty()) {
      const char32_t state = set.back();
      set.pop_back();
      if (mark_[state] == marks_) continue;
      mark_[state] = marks_;
      found.push_back(state);
      for (const Nfa::Jump& jump : nfa_.states[state].jumps)
        if (jump.when == When::kAlways || (jump.when == When::kAtBegin && at_begin) ||
            (jump.when == When::kAtEnd && at_end))
          set.push_back(jump.to);
    }
    std::sort(found.begin(), found.end());
    return found;
  }

  bool accepts(const Set& set, bool at_begin) {
    const Set last = closure(set, at_begin, true);
    return std::binary_search(last.begin(), last.end(), static_cast<char32_t>(nfa_.accept));
  }

  const Nfa& nfa_;
  Budget& budget_;
  Dfa dfa_;
  std::unordered_map<Set, std::uint32_t> ids_;
  std::vector<const Set*> sets_;
  std::vector<std::uint32_t> mark_;
  std::uint32_t marks_ = 0;
};

// The states from which an accepting one can be reached.
std::vector<bool> useful_states(const Dfa& dfa) {
  const std::size_t states = dfa.accepting.size();
  std::vector<std::uint32_t> first(states + 1);  // of the sources that lead to each state
  for (const std::uint32_t to : dfa.next)
    if (to != Dfa::kDead) ++first[to + 1];
  for (std::size_t i = 0; i < states; ++i) first[i + 1] += first[i];
  std::vector<std::uint32_t> sources(first[states]), filled(first.begin(), first.end() - 1);
  for (std::size_t at = 0; at < dfa.next.size(); ++at)
    if (dfa.next[at] != Dfa::kDead)
      sources[filled[dfa.next[at]]++] = static_cast<std::uint32_t>(at / dfa.classes);
  std::vector<bool> useful(states);
  std::vector<std::uint32_t> work;
  const auto reach = [&](std::uint32_t state) {
    if (useful[state]) return;
    useful[state] = true;
    work.push_back(state);
  };
  for (std::uint32_t state = 0; state < states; ++state)
    if (dfa.accepting[state]) reach(state);
  while (!work.empty()) {
    const std::uint32_t state = work.back();
    work.pop_back();
    for (std::uint32_t i = first[state]; i < first[state + 1]; ++i) reach(sources[i]);
  }
  return useful;
}

}  // namespace

bool Dfa::accepts(std::string_view text) const {
  if (empty()) return false;
  std::uint32_t state = 0;
  for (const char c : text) {
    state = step(state, static_cast<std::uint8_t>(c));
    if (state == kDead) return false;
  }
  return accepting[state] != 0;
}

Result<Dfa> determinise(const Nfa& nfa, Budget& budget) {
  return Determiniser(nfa, budget).run();
}

Dfa trimmed(Dfa dfa) {
  const std::vector<bool> useful = useful_states(dfa);
  std::vector<std::uint32_t> renamed(useful.size(), Dfa::kDead);
  std::uint32_t states = 0;
  if (!useful.empty() && useful[0])
    for (std::size_t i = 0; i < useful.size(); ++i)
      if (useful[i]) renamed[i] = states++;
  Dfa kept;
  kept.byte_class = dfa.byte_class;
  kept.classes = dfa.classes;
  for (std::size_t i = 0; i < useful.size(); ++i) {
    if (renamed[i] == Dfa::kDead) continue;
    bool open = false;
    for (std::uint32_t c = 0; c < dfa.classes; ++c) {
      const std::uint32_t to = dfa.next[i * dfa.classes + c];
      kept.next.push_back(to == Dfa::kDead ? Dfa::kDead : renamed[to]);
      open = open || kept.next.back() != Dfa::kDead;
    }
    kept.accepting.push_back(dfa.accepting[i]);
    kept.open.push_back(open);
  }
  return kept;
}

}  // namespace m3
