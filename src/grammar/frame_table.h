// The frames of an automaton's readings: what is left of a node, and what comes behind it.
#pragma once

#include <cstdint>
#include <vector>

#include "grammar/grammar.h"

namespace m3 {

using FrameId = std::uint32_t;

struct Frame {
  NodeId node;
  std::uint32_t place;  // what it means depends on the node; 0 is its beginning
  std::uint64_t count;  // of rounds or members, or a name; 0 at the beginning
  FrameId below;        // where to go on when the node is complete
  std::uint32_t depth;  // frames below
};

// Equal frames are one. The bottom of all stacks is there from the start.
class FrameTable {
 public:
  static constexpr FrameId kBottom = 0;

  FrameTable() : frames_{{.node = kNoNode}}, slots_(kSlotsFirst, kBottom) {}

  const Frame& operator[](FrameId id) const { return frames_[id]; }
  std::size_t size() const { return frames_.size(); }
  FrameId find_or_add(NodeId node, std::uint32_t place, std::uint64_t count, FrameId below);

 private:
  static constexpr std::size_t kSlotsFirst = 256;
  std::size_t slot_of(const Frame& frame) const;
  void grow();

  std::vector<Frame> frames_;
  std::vector<FrameId> slots_;  // a power of two of them, open addressing; kBottom: free
};

}  // namespace m3
