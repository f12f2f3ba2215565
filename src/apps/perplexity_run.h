// How well a model predicts a text, and how far another is from it.
//
// The rule is llama.cpp's, whose figures people compare with: the text is cut into windows of
// `window` tokens that do not overlap (a shorter rest is left out), each is read from an empty
// cache with nothing put in front, and only its second half is scored, so that every prediction has
// at least half a window before it: the tokens window / 2 + 1 .. window - 1.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "model/model.h"

namespace m3 {

struct PerplexityRun {
  std::vector<std::int32_t> ids;  // the whole text
  std::int64_t window = 512;      // tokens, at least 4
  std::int64_t windows_max = 0;   // score no more of them; 0: all
  std::int64_t chunk = 0;         // rows of one step; 0: some hundred
};

// A mean over tokens, and its standard error if tokens were independent.
class Estimate {
 public:
  void add(double sample);
  double mean() const;
  double standard_error() const;  // 0 for fewer than two samples

 private:
  std::int64_t count_ = 0;
  double mean_ = 0, squares_ = 0;  // Welford's: squares of the distances from the mean
};

// Of one model from another, token by token.
struct Comparison {
  Estimate loss;  // of the other
  Estimate kl;    // KL(other || model), nats
  double kl_max = 0;
  Estimate agreement;  // 1 where both give the most to the same token, else 0
};

struct PerplexityResult {
  std::int64_t windows = 0;
  std::int64_t tokens = 0;  // scored
  Estimate loss;            // -log p of each token, nats; perplexity = exp of its mean
  std::optional<Comparison> against;
};

// With `against` (may be null) both models read each step one after the other: logits are kept for
// no longer than that. `progress` counts tokens. Errors: fewer tokens than one window, ids outside
// the vocabulary, a window beyond the positions, models of different vocabularies, no memory for
// the cache, logits that are not finite.
Result<PerplexityResult> run_perplexity(const Model& model, const Model* against,
                                        const PerplexityRun& run, ThreadPool& pool,
                                        const Progress& progress = {});

}  // namespace m3
