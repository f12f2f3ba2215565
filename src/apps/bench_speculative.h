// One measurement of `m3 bench --speculative`: the same tokens decoded without and with drafts.
//
// Of scripted drafts the sequences are drawn by fixed seeds, so they are always the same, and the
// drafts are all right ("replay") or all wrong ("wrong"). A model of random weights will do: what
// it costs to verify a row, in time and in experts, does not depend on what the weights have
// learnt. Drafts of MTP modules ("mtp"), or looked up ("ngram"), are those of greedy answers to
// prompts.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/draft_length.h"
#include "model/model.h"
#include "model/work.h"

namespace m3 {

enum class DraftSource { kRight, kWrong, kMtp, kNgram };

struct SpeculativeCase {
  DraftSource source = DraftSource::kRight;
  std::int64_t draft_tokens = 0;
  std::int64_t tokens = 0;  // of each answer
  std::int64_t depth = 0;   // tokens in the cache before
  std::int64_t batch = 1;   // sequences
  // Of kMtp and kNgram, answered so many at a time; an answer also ends behind a stop id.
  std::vector<std::vector<std::int32_t>> prompts = {};
  std::vector<std::int32_t> stop_ids = {};
};

// Answers to all sequences.
struct DecodeSample {
  double seconds = 0;
  Work work;
  std::int64_t steps = 0;
  std::int64_t tokens = 0;
  double experts = 0;  // distinct ones of a step and MoE layer, on average

  double tokens_per_s() const { return static_cast<double>(tokens) / seconds; }
  double gbps() const { return static_cast<double>(work.bytes()) / seconds / 1e9; }
  double tokens_per_step(std::int64_t sequences) const {
    return static_cast<double>(tokens) / static_cast<double>(steps * sequences);
  }
};

struct SpeculativeSample {
  DecodeSample plain, drafted;
  std::vector<Acceptance::Count> places;  // of all sequences together
  double ratio() const { return plain.seconds / drafted.seconds; }
};

class SpeculativeRun {
 public:
  // Errors: more positions than the model has, or no memory for the caches.
  static Status check(const Model& model, const SpeculativeCase& run_case);
  // Errors: those of check().
  static Result<std::unique_ptr<SpeculativeRun>> create(const Model& model,
                                                        const SpeculativeCase& run_case);
  ~SpeculativeRun();

  // Decodes everything once without drafts, then once with. The first sample also reads the prompts
  // and finds out how many drafts pay.
  SpeculativeSample sample();

 private:
  class Side;
  SpeculativeRun(std::unique_ptr<Side> plain, std::unique_ptr<Side> drafted);

  std::unique_ptr<Side> plain_, drafted_;
};

}  // namespace m3
