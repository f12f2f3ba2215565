#include "train/adamw.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "base/random.h"
#include "tensor/numeric.h"

namespace m3 {
namespace {

constexpr std::int64_t kGrain = 1 << 14;

// Calls body(chunk, values, count) for pieces of a tensor, one after the other on one thread each,
// in any order.
template <typename Body>
void for_chunks(const Tensor& tensor, ThreadPool& pool, const Body& body) {
  pool.parallel_for(tensor.elements(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    body(begin / kGrain, tensor.as<float>() + begin, end - begin);
  });
}

// body's answer for each piece.
template <typename Body>
std::vector<double> of_chunks(const Tensor& tensor, ThreadPool& pool, const Body& body) {
  std::vector<double> answers(static_cast<std::size_t>((tensor.elements() + kGrain - 1) / kGrain));
  for_chunks(tensor, pool, [&](std::int64_t chunk, const float* values, std::int64_t count) {
    answers[static_cast<std::size_t>(chunk)] = body(values, count);
  });
  return answers;
}

// A step's constants; AdamW::step() has the formula.
struct Update {
  float beta1, beta2, rest1, rest2, keep, step_size, second_size, eps, factor;

  // m and v are the new moments; returns the new weight.
  float operator()(float gradient, float weight, float& m, float& v) const {
    gradient *= factor;
    m = beta1 * m + rest1 * gradient;
    v = beta2 * v + rest2 * gradient * gradient;
    return keep * weight - step_size * m / (std::sqrt(v) * second_size + eps);
  }
};

void update(const Update& next, const float* g, std::int64_t count, float* w, float* m, float* v) {
  for (std::int64_t n = 0; n < count; ++n) w[n] = next(g[n], w[n], m[n], v[n]);
}

// Up with the probability that keeps the mean; `random` is of 16 bits. x is finite.
BF16 rounded_at_random(float x, std::uint64_t random) {
  const auto bits = std::bit_cast<std::uint32_t>(x) + static_cast<std::uint32_t>(random & 0xffff);
  return {static_cast<std::uint16_t>(bits >> 16)};
}

// The same with moments in bfloat16; `first` is the place of the first element in its tensor, whose
// key in this step is `key`.
void update(const Update& next, const float* g, std::int64_t count, float* w, BF16* m, BF16* v,
            std::uint64_t key, std::int64_t first) {
  for (std::int64_t n = 0; n < count; ++n) {
    float m32 = to_float(m[n]), v32 = to_float(v[n]);
    w[n] = next(g[n], w[n], m32, v32);
    const std::uint64_t random = mix64(key + static_cast<std::uint64_t>(first + n) * kGolden);
    m[n] = rounded_at_random(m32, random);
    v[n] = rounded_at_random(v32, random >> 16);
  }
}

// Infinite where an element is not finite: as integers, sizes of floats are in the same order.
double largest_of(const float* values, std::int64_t count) {
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < count; ++i)
    largest = std::max(largest, std::bit_cast<std::int32_t>(values[i]) & 0x7fffffff);
  const float size = std::bit_cast<float>(largest);
  return std::isfinite(size) ? double{size} : INFINITY;
}

// Of the elements times `factor`, in lanes whose order no compiler chooses.
double sum_of_squares(const float* values, std::int64_t count, double factor) {
  constexpr std::int64_t kLanes = 8;
  double sums[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const double share = values[i + lane] * factor;
      sums[lane] += share * share;
    }
  for (; i < count; ++i) sums[0] += values[i] * factor * (values[i] * factor);
  return std::accumulate(std::begin(sums), std::end(sums), 0.0);
}

}  // namespace

GradientNorm gradient_norm(std::span<const Tensor> gradients, ThreadPool& pool) {
  double largest = 0;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    for (const double size : of_chunks(gradients[i], pool, largest_of))
      largest = std::max(largest, size);
    if (std::isinf(largest)) return {INFINITY, static_cast<std::int64_t>(i)};
  }
  if (largest == 0) return {};
  const double factor = 1 / largest;
  double squares = 0;
  for (const Tensor& gradient : gradients)
    for (const double sum : of_chunks(gradient, pool, [factor](const float*values, std::int64_t n) {
           return sum_of_squares(values, n, factor);
         }))
      squares += sum;
  return {largest * std::sqrt(squares)};
}

Result<AdamW> AdamW::create(std::span<const WeightSpec> weights, const AdamWOptions& options) {
  M3_CHECK(options.moments == DType::kF32 || options.moments == DType::kBF16, "moments of {}",
           dtype_name(options.moments));
  AdamW adam;
  adam.options_ = options;
  M3_TRY(adam.first_, WeightValues::create(weights, options.moments));
  M3_TRY(adam.second_, WeightValues::create(weights, options.moments));
  return adam;
}

void AdamW::step(std::span<const Tensor> weights, std::span<const Tensor> gradients, double rate,
                 double scale, ThreadPool& pool) {
  ++steps_;
  const auto t = static_cast<double>(steps_);
  const Update next{
      .beta1 = static_cast<float>(options_.beta1),
      .beta2 = static_cast<float>(options_.beta2),
      .rest1 = static_cast<float>(1 - options_.beta1),
      .rest2 = static_cast<float>(1 - options_.beta2),
      .keep = static_cast<float>(1 - rate * options_.weight_decay),
      .step_size = static_cast<float>(rate / (1 - std::pow(options_.beta1, t))),
      .second_size = static_cast<float>(1 / std::sqrt(1 - std::pow(options_.beta2, t))),
      .eps = static_cast<float>(options_.eps),
      .factor = static_cast<float>(scale)};
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const Tensor &m = first_.tensors()[i], &v = second_.tensors()[i];
    const std::uint64_t key = mix64(mix64(static_cast<std::uint64_t>(steps_)) + i);
    for_chunks(weights[i], pool, [&](std::int64_t chunk, float* w, std::int64_t count) {
      const std::int64_t at = chunk * kGrain;
      const float* g = gradients[i].as<float>() + at;
      if (options_.moments == DType::kBF16)
        update(next, g, count, w, m.as<BF16>() + at, v.as<BF16>() + at, key, at);
      else
        update(next, g, count, w, m.as<float>() + at, v.as<float>() + at);
    });
  }
}

}  // namespace m3
