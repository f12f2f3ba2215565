// How many tokens to draft: as many as pay.
//
// A step with drafts gives more tokens and takes longer, the more so in a mixture of experts, where
// every row wants experts of its own. Both sides are measured while decoding: how often the j-th
// draft is the draw, and how long a step of so many rows takes. Of all lengths the one with the
// most expected tokens a second is taken, none at all among them. Now and then another length is
// tried, so that what was measured long ago does not decide for ever. Only the speed depends on it.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace m3 {

// How often drafts were right, by their place in a step's drafts.
class Acceptance {
 public:
  struct Count {
    std::int64_t drafted = 0;
    std::int64_t accepted = 0;
  };

  explicit Acceptance(std::int64_t draft_tokens);
  // The same expectations, nothing counted.
  Acceptance fresh() const;

  // Of `drafted` tokens the first `accepted` were the draws; those behind a wrong one count as
  // drafted, but tell nothing.
  void saw(std::int64_t drafted, std::int64_t accepted);

  // The chance that the draft at `place` is right if all before it are: smoothed, the latest most.
  double rate(std::int64_t place) const { return rates_[static_cast<std::size_t>(place)]; }
  const std::vector<Count>& counts() const { return counts_; }

 private:
  std::vector<double> rates_;
  std::vector<Count> counts_;
};

// Seconds of a step by its rows, smoothed.
class StepCost {
 public:
  void saw(std::int64_t rows, double seconds);
  // Between measured numbers of rows a straight line; beyond them a guess.
  double estimate(std::int64_t rows) const;

 private:
  std::map<std::int64_t, double> seconds_;
};

// A sequence that may draft up to `most` tokens.
struct DraftRoom {
  const Acceptance* acceptance;
  std::int64_t most;
};

class DraftLength {
 public:
  // A step of decoding rows only, with the drafting before it.
  void saw_step(std::int64_t rows, double seconds);

  // Drafts for each sequence of the next step, `rows_max` together at most.
  std::vector<std::int64_t> choose(std::span<const DraftRoom> sequences, std::int64_t rows_max);

 private:
  // What a step is expected to give and to take.
  struct Plan {
    std::vector<std::int64_t> lengths;
    double tokens = 0;
    double seconds = 0;
    double rate() const { return tokens / seconds; }
  };
  Plan best(std::span<const DraftRoom> sequences, std::int64_t rows_max) const;
  Plan evaluate(std::span<const DraftRoom> sequences, std::int64_t rows_max,
                std::vector<std::int64_t> lengths) const;

  StepCost cost_;
  double since_probe_ = 0;  // seconds
  std::size_t next_probe_ = 0;
};

}  // namespace m3
