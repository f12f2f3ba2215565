// A drafter that knows the answer and is right or wrong as told: what tests and `m3 bench` drive
// the engine with.
#pragma once

#include <functional>
#include <map>

#include "engine/drafter.h"

namespace m3 {

class ScriptedDrafter final : public Drafter {
 public:
  using Right = std::function<bool(SequenceId sequence, std::int64_t position)>;

  // At positions where `right` is false another id of the vocabulary is drafted.
  ScriptedDrafter(std::int64_t vocab, Right right) : vocab_(vocab), right_(std::move(right)) {}

  // What the sequence will be, prompt and answer. Nothing is drafted for sequences without.
  void expect(SequenceId sequence, std::vector<std::int32_t> tokens) {
    scripts_[sequence] = std::move(tokens);
  }

  std::vector<std::vector<std::int32_t>> draft(const VerifiedStep& step) override;
  void forget(SequenceId sequence) override { scripts_.erase(sequence); }

 private:
  std::vector<std::int32_t> follow(const DraftJob& job) const;

  std::int64_t vocab_;
  Right right_;
  std::map<SequenceId, std::vector<std::int32_t>> scripts_;
};

}  // namespace m3
