#include "train/adamw.h"

#include <algorithm>
#include <cmath>

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

// Infinite where an element is not finite.
double largest_of(const float* values, std::int64_t count) {
  double largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double size = std::abs(double{values[i]});
    if (!std::isfinite(size)) return INFINITY;
    largest = std::max(largest, size);
  }
  return largest;
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
  double squares = 0;
  for (const Tensor& gradient : gradients)
    for (const double sum :
         of_chunks(gradient, pool, [largest](const float*values, std::int64_t count) {
           double sum = 0;
           for (std::int64_t i = 0; i < count; ++i) {
             const double share = values[i] / largest;
             sum += share * share;
           }
           return sum;
         }))
      squares += sum;
  return {largest * std::sqrt(squares)};
}

Result<AdamW> AdamW::create(std::span<const WeightSpec> weights, const AdamWOptions& options) {
  AdamW adam;
  adam.options_ = options;
  M3_TRY(adam.first_, WeightValues::create(weights));
  M3_TRY(adam.second_, WeightValues::create(weights));
  return adam;
}

void AdamW::step(std::span<const Tensor> weights, std::span<const Tensor> gradients, double rate,
                 double scale, ThreadPool& pool) {
  ++steps_;
  const auto t = static_cast<double>(steps_);
  const auto beta1 = static_cast<float>(options_.beta1), beta2 = static_cast<float>(options_.beta2);
  const auto rest1 = static_cast<float>(1 - options_.beta1);
  const auto rest2 = static_cast<float>(1 - options_.beta2);
  const auto keep = static_cast<float>(1 - rate * options_.weight_decay);
  const auto step_size = static_cast<float>(rate / (1 - std::pow(options_.beta1, t)));
  const auto second_size = static_cast<float>(1 / std::sqrt(1 - std::pow(options_.beta2, t)));
  const auto eps = static_cast<float>(options_.eps), factor = static_cast<float>(scale);
  for (std::size_t i = 0; i < weights.size(); ++i)
    for_chunks(weights[i], pool, [&](std::int64_t chunk, float* w, std::int64_t count) {
      const float* g = gradients[i].as<float>() + chunk * kGrain;
      float* m = first_.tensors()[i].as<float>() + chunk * kGrain;
      float* v = second_.tensors()[i].as<float>() + chunk * kGrain;
      for (std::int64_t n = 0; n < count; ++n) {
        const float gradient = g[n] * factor;
        m[n] = beta1 * m[n] + rest1 * gradient;
        v[n] = beta2 * v[n] + rest2 * gradient * gradient;
        w[n] = keep * w[n] - step_size * m[n] / (std::sqrt(v[n]) * second_size + eps);
      }
    });
}

}  // namespace m3
