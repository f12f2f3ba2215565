// AdamW (Loshchilov and Hutter, arXiv 1711.05101), and the norm by which gradients are clipped.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "train/trained_weights.h"

namespace m3 {

struct GradientNorm {
  double norm = 0;               // of all elements of all tensors (spec: training §8.4)
  std::int64_t not_finite = -1;  // the first tensor with an element that is not; -1: none
};

// Sums in double, of elements over the largest magnitude, in an order that no number of threads
// changes.
GradientNorm gradient_norm(std::span<const Tensor> gradients, ThreadPool& pool);

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;  // of every trained weight
  // In which both moments are kept, F32 or BF16. To bfloat16 they are rounded at random, up as
  // often as keeps their mean: to the nearest, a moment would stay where it is once a step changes
  // it by less than half a unit, and one of β2 = 0.999 does so from the first. What is random
  // depends on step, tensor and element alone.
  DType moments = DType::kF32;
};

// Holds the moments.
class AdamW {
 public:
  // Errors: the system has no such memory left.
  static Result<AdamW> create(std::span<const WeightSpec> weights, const AdamWOptions& options);

  // With g = gradient * scale, t = steps so far and this one:
  //   m = β1 m + (1 - β1) g,  v = β2 v + (1 - β2) g²
  //   w = w (1 - rate * decay) - rate * (m / (1 - β1^t)) / (√(v / (1 - β2^t)) + ε)
  // Both spans as `weights` in create().
  void step(std::span<const Tensor> weights, std::span<const Tensor> gradients, double rate,
            double scale, ThreadPool& pool);

  std::int64_t steps() const { return steps_; }
  // Both moments, one tensor for each of `weights`.
  std::span<const Tensor> first_moments() const { return first_.tensors(); }
  std::span<const Tensor> second_moments() const { return second_.tensors(); }
  // The moments have been filled with those of that many steps.
  void resume_at(std::int64_t steps) { steps_ = steps; }
  std::int64_t bytes() const { return first_.bytes() + second_.bytes(); }

 private:
  AdamWOptions options_;
  WeightValues first_, second_;
  std::int64_t steps_ = 0;
};

}  // namespace m3
