#include "engine/draft_length.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <utility>

#include "base/check.h"

namespace m3 {
namespace {

// Before anything is known: drafts are rather good, and a row more costs a third of a step of one.
constexpr double kFirstRate = 0.7;
constexpr double kRowShare = 0.3;
// What the latest step weighs.
constexpr double kRateWeight = 0.125;
// Disturbances only ever make a step longer: up slowly and never by far at once, down fast.
constexpr double kSlowerWeight = 0.1;
constexpr double kSlowerMost = 2;
constexpr double kFasterWeight = 0.5;
// A probe may lose this share of the time since the one before.
constexpr double kProbeShare = 1.0 / 40;
// Lengths to probe in turn: one draft more than now, since between two measured lengths the cost
// may have a step; one, which says whether drafts are right; all, in case that many pay where few
// do not; none, which says what plain decoding costs by now.
enum class Probe { kOneMore, kOne, kAll, kNone };
constexpr std::array kProbes = {Probe::kOneMore, Probe::kOne, Probe::kAll, Probe::kNone};

std::int64_t probe_length(Probe probe, std::int64_t now) {
  switch (probe) {
    case Probe::kOneMore:
      return now + 1;
    case Probe::kOne:
      return 1;
    case Probe::kAll:
      return std::numeric_limits<std::int64_t>::max();
    case Probe::kNone:
      return 0;
  }
  M3_CHECK(false, "probe {}", static_cast<int>(probe));
}

double guessed_shape(std::int64_t rows) {
  return 1 + kRowShare * static_cast<double>(rows - 1);
}

// One more draft of one sequence, and the chance that it will be a token of the answer.
struct Candidate {
  double chance;
  std::int64_t place;
  std::size_t sequence;
};

std::vector<Candidate> candidates_of(std::span<const DraftRoom> sequences) {
  std::vector<Candidate> all;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    double chance = 1;
    for (std::int64_t place = 0; place < sequences[i].most; ++place) {
      chance *= sequences[i].acceptance->rate(place);
      all.push_back({chance, place, i});
    }
  }
  // A sequence's drafts stay in order: their chances never grow.
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.chance != b.chance ? a.chance > b.chance : a.place < b.place;
  });
  return all;
}

}  // namespace

Acceptance::Acceptance(std::int64_t draft_tokens)
    : rates_(static_cast<std::size_t>(draft_tokens), kFirstRate),
      counts_(static_cast<std::size_t>(draft_tokens)) {}

Acceptance Acceptance::fresh() const {
  Acceptance same = *this;
  same.counts_.assign(counts_.size(), {});
  return same;
}

void Acceptance::saw(std::int64_t drafted, std::int64_t accepted) {
  for (std::int64_t place = 0; place < drafted; ++place) {
    const auto i = static_cast<std::size_t>(place);
    ++counts_[i].drafted;
    if (place < accepted) ++counts_[i].accepted;
    if (place <= accepted) rates_[i] += kRateWeight * ((place < accepted ? 1 : 0) - rates_[i]);
  }
}

void StepCost::saw(std::int64_t rows, double seconds) {
  const auto [known, first] = seconds_.try_emplace(rows, seconds);
  if (first) return;
  double& value = known->second;
  value += seconds < value ? kFasterWeight * (seconds - value)
                           : kSlowerWeight * (std::min(seconds, kSlowerMost * value) - value);
}

double StepCost::estimate(std::int64_t rows) const {
  if (seconds_.empty()) return guessed_shape(rows);
  const auto above = seconds_.lower_bound(rows);
  if (above != seconds_.end() && above->first == rows) return above->second;
  if (above == seconds_.begin() || above == seconds_.end()) {
    const auto& [known, seconds] = above == seconds_.end() ? *std::prev(above) : *above;
    return seconds * guessed_shape(rows) / guessed_shape(known);
  }
  const auto& [low, low_seconds] = *std::prev(above);
  const auto& [high, high_seconds] = *above;
  const double share = static_cast<double>(rows - low) / static_cast<double>(high - low);
  return low_seconds + share * (high_seconds - low_seconds);
}

void DraftLength::saw_step(std::int64_t rows, double seconds) {
  cost_.saw(rows, seconds);
  since_probe_ += seconds;
}

std::vector<std::int64_t> DraftLength::choose(std::span<const DraftRoom> sequences,
                                              std::int64_t rows_max) {
  const Plan plan = best(sequences, rows_max);
  std::vector<std::int64_t> other;
  for (const std::int64_t now : plan.lengths)
    other.push_back(probe_length(kProbes[next_probe_ % kProbes.size()], now));
  const Plan probe = evaluate(sequences, rows_max, std::move(other));
  if (probe.lengths == plan.lengths) {
    ++next_probe_;
    return plan.lengths;
  }
  const double loss = probe.seconds - probe.tokens / plan.rate();
  if (loss > kProbeShare * since_probe_) return plan.lengths;
  ++next_probe_;
  since_probe_ = 0;
  return probe.lengths;
}

// The cost of a step depends on all its rows together, so the likeliest drafts of all sequences go
// first, and what remains to be found is how many.
DraftLength::Plan DraftLength::best(std::span<const DraftRoom> sequences,
                                    std::int64_t rows_max) const {
  std::vector<Candidate> candidates = candidates_of(sequences);
  const auto plain = std::ssize(sequences);
  Plan plan{.lengths = std::vector<std::int64_t>(sequences.size(), 0),
            .tokens = static_cast<double>(plain),
            .seconds = cost_.estimate(plain)};
  const std::int64_t most = std::clamp<std::int64_t>(rows_max, 0, std::ssize(candidates));
  double tokens = plan.tokens;
  std::int64_t kept = 0;
  for (std::int64_t count = 1; count <= most; ++count) {
    tokens += candidates[static_cast<std::size_t>(count - 1)].chance;
    const double seconds = cost_.estimate(plain + count);
    if (tokens / seconds <= plan.rate()) continue;
    plan.tokens = tokens;
    plan.seconds = seconds;
    kept = count;
  }
  candidates.resize(static_cast<std::size_t>(kept));
  for (const Candidate& c : candidates) ++plan.lengths[c.sequence];
  return plan;
}

// What these lengths, cut to the room that there is, give and take.
DraftLength::Plan DraftLength::evaluate(std::span<const DraftRoom> sequences, std::int64_t rows_max,
                                        std::vector<std::int64_t> lengths) const {
  Plan plan{.lengths = std::move(lengths)};
  std::int64_t rows = std::ssize(sequences);
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    std::int64_t& length = plan.lengths[i];
    length = std::max<std::int64_t>(0, std::min({length, sequences[i].most, rows_max}));
    rows_max -= length;
    rows += length;
    double chance = 1;
    plan.tokens += 1;
    for (std::int64_t place = 0; place < length; ++place)
      plan.tokens += chance *= sequences[i].acceptance->rate(place);
  }
  plan.seconds = cost_.estimate(rows);
  return plan;
}

}  // namespace m3
