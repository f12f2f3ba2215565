#include "grammar/frame_table.h"

#include "base/random.h"

namespace m3 {

// The slot of an equal frame, or a free one.
std::size_t FrameTable::slot_of(const Frame& frame) const {
  const std::uint64_t place = std::uint64_t{frame.node} << 32 | frame.place;
  const std::size_t last = slots_.size() - 1;
  std::size_t slot = mix64(place + kGolden * (frame.count + kGolden * frame.below)) & last;
  for (; slots_[slot] != kBottom; slot = (slot + 1) & last) {
    const Frame& other = frames_[slots_[slot]];
    if (other.node == frame.node && other.place == frame.place && other.count == frame.count &&
        other.below == frame.below)
      break;
  }
  return slot;
}

FrameId FrameTable::find_or_add(NodeId node, std::uint32_t place, std::uint64_t count,
                                FrameId below) {
  const Frame frame{node, place, count, below, frames_[below].depth + 1};
  const std::size_t slot = slot_of(frame);
  if (slots_[slot] != kBottom) return slots_[slot];
  const auto id = static_cast<FrameId>(frames_.size());
  frames_.push_back(frame);
  slots_[slot] = id;
  if (frames_.size() * 2 > slots_.size()) grow();
  return id;
}

void FrameTable::grow() {
  slots_.assign(slots_.size() * 2, kBottom);
  for (FrameId id = 1; id < frames_.size(); ++id) slots_[slot_of(frames_[id])] = id;
}

}  // namespace m3
