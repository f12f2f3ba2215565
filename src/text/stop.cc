#include "text/stop.h"

#include <algorithm>
#include <utility>

namespace m3 {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, "");
}

std::string StopMatcher::feed(std::string_view text) {
  if (matched_) return {};
  pending_ += text;
  std::size_t shown = 0;
  if (const auto hit = first_hit()) {
    shown = hit->begin;
    matched_ = pending_.substr(hit->begin, hit->end - hit->begin);
  } else {
    shown = pending_.size() - held_length();
  }
  std::string rest = pending_.substr(shown);
  pending_.resize(shown);
  std::swap(pending_, rest);
  return rest;
}

std::string StopMatcher::flush() {
  if (matched_) return {};
  return std::exchange(pending_, {});
}

std::optional<StopMatcher::Hit> StopMatcher::first_hit() const {
  std::optional<Hit> first;
  for (const std::string& stop : stops_) {
    const std::size_t begin = pending_.find(stop);
    if (begin == pending_.npos) continue;
    const Hit hit{begin, begin + stop.size()};
    if (!first || hit.end < first->end || (hit.end == first->end && hit.begin < first->begin))
      first = hit;
  }
  return first;
}

// The longest suffix of what is pending that begins a stop string.
std::size_t StopMatcher::held_length() const {
  const std::string_view pending = pending_;
  std::size_t longest = 0;
  for (const std::string& stop : stops_)
    for (std::size_t n = std::min(stop.size() - 1, pending.size()); n > longest; --n)
      if (pending.ends_with(std::string_view(stop).substr(0, n))) longest = n;
  return longest;
}

}  // namespace m3
