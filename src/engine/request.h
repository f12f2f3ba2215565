// What the engine is asked for.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "engine/sampler.h"
#include "model/splice.h"

namespace m3 {

struct Request {
  std::vector<std::int32_t> prompt;
  std::int64_t max_tokens = 0;  // at least 1
  std::int64_t min_tokens = 0;  // so many are drawn before one of stop_ids may be, unless a
                                // constraint says otherwise
  SamplingParams sampling;
  // Of each token of the prompt but the first: report it with so many most probable ids; -1: none.
  int prompt_logprobs = -1;
  std::vector<std::int32_t> stop_ids;  // the answer ends after one of these, which is reported too
  std::vector<std::vector<std::int32_t>> bad_words = {};  // ids that never follow so in the answer
  SplicePlan media = {};                                  // of the prompt
  std::int32_t adapter = -1;  // of the model's adapters, by number; -1: none
  std::int64_t client = 0;    // whose it is: where requests wait, clients take turns
  // On the clock of EngineOptions::seconds: what is not finished by then ends.
  double deadline = std::numeric_limits<double>::infinity();
};

}  // namespace m3
