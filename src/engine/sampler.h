// From logits to one token.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"

namespace m3 {

struct SamplingParams {
  float temperature = 1;   // 0: the arg-max, ties to the lowest id
  std::int64_t top_k = 0;  // keep the k most probable; 0 or -1: all
  float top_p = 1;         // then keep the fewest that together have at least this probability
  float min_p = 0;         // drop what is less probable than min_p times the most probable
  float repetition_penalty = 1;  // > 1 makes ids of prompt and answer less likely
  float presence_penalty = 0;    // subtracted once from ids of the answer
  float frequency_penalty = 0;   // subtracted per occurrence in the answer
  std::vector<std::pair<std::int32_t, float>> logit_bias;
  std::vector<std::int32_t> banned;  // never drawn
  std::uint64_t seed = 0;
  int logprobs =
      -1;  // report this many most probable ids a token; -1: none, not even the drawn one's
};

// Errors: a number outside its range, or an id outside the vocabulary; names the field and the
// range.
Status check_sampling(const SamplingParams& params, std::int64_t vocab);

// What the penalties look at.
struct TokenHistory {
  std::unordered_map<std::int32_t, std::int32_t> prompt;  // id -> occurrences
  std::unordered_map<std::int32_t, std::int32_t> answer;
};

struct TokenLogprob {
  std::int32_t id = -1;
  float logprob = 0;  // natural log of the model's own probability, before any adjustment
};

struct SampledToken {
  std::int32_t id = -1;
  float logprob = 0;              // as above; 0 if not asked for
  std::int32_t rank = 0;          // 1: the most probable; 0 if not asked for
  std::vector<TokenLogprob> top;  // descending, as many as were asked for
};

// What the logits [vocab] say of token `id`, and of the `count` most probable.
SampledToken score_token(std::span<const float> logits, std::int32_t id, int count);

// Draws the token at `position` of a sequence from the logits [vocab] of the row before it, of the
// ids whose bits are set in `allowed` (of all, where that is empty). Its id is -1 where nothing can
// be drawn: every logit is NaN, -inf, banned or not allowed.
//
// Order: bias and bans, repetition, presence and frequency penalties, temperature, min-p, top-k,
// top-p. The draw is the arg-max over what remains of logit / temperature + Gumbel noise, and the
// noise is a function of (seed, position, id): an exact sample of the softmax that depends on
// nothing that runs beside it, and that a drafter can foresee.
class Sampler {
 public:
  SampledToken sample(std::span<const float> logits, const SamplingParams& params,
                      const TokenHistory& history, std::int64_t position,
                      std::span<const std::uint64_t> allowed = {});

 private:
  struct Candidate {
    std::int32_t id;
    float logit;
  };
  void adjust(std::span<const float> logits, const SamplingParams& params,
              const TokenHistory& history);
  void forbid_others(std::span<const std::uint64_t> allowed);
  void keep_candidates(const SamplingParams& params);
  void keep_top(std::size_t count);
  void keep_mass(float top_p);

  std::vector<float> logits_;          // adjusted
  std::vector<Candidate> candidates_;  // logits divided by the temperature
};

}  // namespace m3
