#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"

namespace m3 {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Higher logit first, then lower id: the one order of everything here.
constexpr auto kBetter = [](const auto& a, const auto& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
};

Status check_range(const char* field, double value, double low, double high, bool open_low) {
  const bool fits = (open_low ? value > low : value >= low) && value <= high;  // NaN never fits
  if (fits) return {};
  return fail("{} is {}, expected {}{} to {}", field, static_cast<float>(value),
              open_low ? "above " : "", low, high);
}

// Natural log of the sum of exponentials.
double log_sum_exp(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x - largest));
  return largest + std::log(sum);
}

std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, double norm,
                                       std::size_t count) {
  std::vector<std::int32_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  count = std::min(count, order.size());
  const auto better = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    better);
  std::vector<TokenLogprob> top;
  for (std::size_t i = 0; i < count; ++i)
    top.push_back(
        {order[i], static_cast<float>(logits[static_cast<std::size_t>(order[i])] - norm)});
  return top;
}

// Standard Gumbel noise.
double gumbel(std::uint64_t seed, std::int64_t position, std::int32_t id) {
  return -std::log(-std::log(
      uniform_at(seed, static_cast<std::uint64_t>(position), static_cast<std::uint64_t>(id))));
}

}  // namespace

SampledToken score_token(std::span<const float> logits, std::int32_t id, int count) {
  const float logit = logits[static_cast<std::size_t>(id)];
  const double norm = log_sum_exp(logits);
  const auto better = std::ranges::count_if(logits, [&](float x) { return x > logit; });
  return {.id = id,
          .logprob = static_cast<float>(logit - norm),
          .rank = static_cast<std::int32_t>(better) + 1,
          .top = top_logprobs(logits, norm, static_cast<std::size_t>(count))};
}

Status check_sampling(const SamplingParams& p, std::int64_t vocab) {
  constexpr double kAny = 1e9;
  M3_TRY_STATUS(check_range("temperature", p.temperature, 0, 2, false));
  M3_TRY_STATUS(check_range("top_p", p.top_p, 0, 1, true));
  M3_TRY_STATUS(check_range("min_p", p.min_p, 0, 1, false));
  M3_TRY_STATUS(check_range("top_k", static_cast<double>(p.top_k), -1, kAny, false));
  M3_TRY_STATUS(check_range("repetition_penalty", p.repetition_penalty, 0, kAny, true));
  M3_TRY_STATUS(check_range("presence_penalty", p.presence_penalty, -2, 2, false));
  M3_TRY_STATUS(check_range("frequency_penalty", p.frequency_penalty, -2, 2, false));
  M3_TRY_STATUS(check_range("logprobs", p.logprobs, -1, 1000, false));
  for (const auto& [id, bias] : p.logit_bias) {
    if (id < 0 || id >= vocab)
      return fail("logit_bias names id {}, outside the vocabulary of {} ids", id, vocab);
    M3_TRY_STATUS(check_range("logit_bias", bias, -100, 100, false));
  }
  return {};
}

SampledToken Sampler::sample(std::span<const float> logits, const SamplingParams& params,
                             const TokenHistory& history, std::int64_t position,
                             std::span<const std::uint64_t> allowed) {
  adjust(logits, params, history);
  if (!allowed.empty()) forbid_others(allowed);
  SampledToken token;
  const auto largest = std::max_element(logits_.begin(), logits_.end());
  if (*largest == kNever) return token;
  if (params.temperature == 0) {
    token.id = static_cast<std::int32_t>(largest - logits_.begin());
  } else {
    keep_candidates(params);
    double best = -std::numeric_limits<double>::infinity();
    for (const Candidate& c : candidates_) {
      const double value = c.logit + gumbel(params.seed, position, c.id);
      if (token.id < 0 || value > best || (value == best && c.id < token.id)) {
        best = value;
        token.id = c.id;
      }
    }
  }
  return params.logprobs >= 0 ? score_token(logits, token.id, params.logprobs) : token;
}

void Sampler::adjust(std::span<const float> logits, const SamplingParams& params,
                     const TokenHistory& history) {
  logits_.assign(logits.begin(), logits.end());
  for (float& x : logits_)
    if (std::isnan(x)) x = kNever;
  for (const auto& [id, bias] : params.logit_bias) logits_[static_cast<std::size_t>(id)] += bias;
  const auto repeat = [&](std::int32_t id) {
    float& x = logits_[static_cast<std::size_t>(id)];
    x = x > 0 ? x / params.repetition_penalty : x * params.repetition_penalty;
  };
  if (params.repetition_penalty != 1) {
    for (const auto& [id, count] : history.prompt) repeat(id);
    for (const auto& [id, count] : history.answer)
      if (!history.prompt.contains(id)) repeat(id);
  }
  if (params.presence_penalty != 0 || params.frequency_penalty != 0)
    for (const auto& [id, count] : history.answer)
      logits_[static_cast<std::size_t>(id)] -=
          params.presence_penalty + params.frequency_penalty * static_cast<float>(count);
  for (const std::int32_t id : params.banned) logits_[static_cast<std::size_t>(id)] = kNever;
}

void Sampler::forbid_others(std::span<const std::uint64_t> allowed) {
  for (std::size_t id = 0; id < logits_.size(); ++id)
    if ((allowed[id / 64] >> (id % 64) & 1) == 0) logits_[id] = kNever;
}

// Fills candidates_ with what may be drawn.
void Sampler::keep_candidates(const SamplingParams& params) {
  const float largest = *std::max_element(logits_.begin(), logits_.end());
  // p >= min_p * p_max, as logits after the temperature.
  const float least =
      params.min_p > 0 ? largest / params.temperature + std::log(params.min_p) : kNever;
  candidates_.clear();
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    const float logit = logits_[i] / params.temperature;
    if (logit >= least && logits_[i] != kNever)
      candidates_.push_back({static_cast<std::int32_t>(i), logit});
  }
  if (params.top_k > 0) keep_top(static_cast<std::size_t>(params.top_k));
  if (params.top_p < 1) keep_mass(params.top_p);
}

void Sampler::keep_top(std::size_t count) {
  if (count >= candidates_.size()) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(count),
                   candidates_.end(), kBetter);
  candidates_.resize(count);
}

// Sorts only as many candidates as the mass needs: for a 200,064-token vocabulary usually a few
// hundred.
void Sampler::keep_mass(float top_p) {
  float largest = kNever;
  for (const Candidate& c : candidates_) largest = std::max(largest, c.logit);
  const auto weight = [&](const Candidate& c) {
    return std::exp(static_cast<double>(c.logit - largest));
  };
  double total = 0;
  for (const Candidate& c : candidates_) total += weight(c);
  double mass = 0;
  std::size_t kept = 0;
  for (std::size_t sorted = 0, next = 256; kept < candidates_.size(); next *= 8) {
    const std::size_t end = std::min(next, candidates_.size());
    std::partial_sort(candidates_.begin() + static_cast<std::ptrdiff_t>(sorted),
                      candidates_.begin() + static_cast<std::ptrdiff_t>(end), candidates_.end(),
                      kBetter);
    sorted = end;
    while (kept < sorted && (kept == 0 || mass < top_p * total))
      mass += weight(candidates_[kept++]);
    if (kept < sorted || mass >= top_p * total) break;
  }
  candidates_.resize(kept);
}

}  // namespace m3
