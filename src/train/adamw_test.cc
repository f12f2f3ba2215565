#include "train/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace m3 {
namespace {

constexpr std::int64_t kElements = 40'000;  // several pieces for threads, the last one short

WeightSpec spec(std::int64_t elements) {
  WeightSpec spec;
  spec.name = "w";
  spec.shape = {elements};
  return spec;
}

float weight_at(std::int64_t i) {
  return static_cast<float>(std::sin(static_cast<double>(i)));
}
float gradient_at(std::int64_t i, int step) {
  return static_cast<float>(std::cos(static_cast<double>(i * (step + 1)))) / 8;
}

class Values {
 public:
  explicit Values(std::int64_t elements)
      : values_(static_cast<std::size_t>(elements)),
        tensor_(values_.data(), DType::kF32, {elements}) {}
  float& operator[](std::int64_t i) { return values_[static_cast<std::size_t>(i)]; }
  std::span<const Tensor> span() const { return {&tensor_, 1}; }
  const std::vector<float>& all() const { return values_; }

 private:
  std::vector<float> values_;
  Tensor tensor_;
};

// Three steps of a gradient times `scale`.
std::vector<float> after_three_steps(const AdamWOptions& options, int threads, double scale) {
  ThreadPool pool(threads);
  Values weights(kElements), gradients(kElements);
  const std::vector<WeightSpec> specs = {spec(kElements)};
  auto adam = AdamW::create(specs, options);
  EXPECT_TRUE(adam);
  for (std::int64_t i = 0; i < kElements; ++i) weights[i] = weight_at(i);
  for (int step = 0; step < 3; ++step) {
    for (std::int64_t i = 0; i < kElements; ++i) gradients[i] = gradient_at(i, step);
    adam->step(weights.span(), gradients.span(), 0.01, scale, pool);
  }
  EXPECT_EQ(adam->steps(), 3);
  return weights.all();
}

TEST(AdamW, IsItsFormula) {
  const AdamWOptions o{.beta1 = 0.8, .beta2 = 0.9, .eps = 1e-3, .weight_decay = 0.5};
  const auto ours = after_three_steps(o, 2, 0.25);
  for (std::int64_t i = 0; i < kElements; i += 7) {
    double w = weight_at(i), m = 0, v = 0;
    for (int step = 0; step < 3; ++step) {
      const double g = 0.25 * gradient_at(i, step);
      w -= 0.01 * o.weight_decay * w;
      m = o.beta1 * m + (1 - o.beta1) * g;
      v = o.beta2 * v + (1 - o.beta2) * g * g;
      const double m_hat = m / (1 - std::pow(o.beta1, step + 1));
      const double v_hat = v / (1 - std::pow(o.beta2, step + 1));
      w -= 0.01 * m_hat / (std::sqrt(v_hat) + o.eps);
    }
    EXPECT_NEAR(ours[static_cast<std::size_t>(i)], w, 1e-6) << i;
  }
}

TEST(AdamW, HasTheSameBitsForAnyNumberOfThreads) {
  EXPECT_EQ(after_three_steps({}, 1, 1), after_three_steps({}, 3, 1));
}

TEST(GradientNorm, IsTheLengthWithoutOverflow) {
  ThreadPool one(1), three(3);
  for (const double size : {1.0, 1e38, 1e-38}) {
    Values gradients(kElements);
    double squares = 0;
    for (std::int64_t i = 0; i < kElements; ++i) {
      gradients[i] = static_cast<float>(size) * gradient_at(i, 0);
      squares += std::pow(double{gradients[i]} / size, 2);
    }
    const GradientNorm norm = gradient_norm(gradients.span(), three);
    EXPECT_NEAR(norm.norm / size, std::sqrt(squares), 1e-9 * std::sqrt(squares));
    EXPECT_EQ(norm.not_finite, -1);
    EXPECT_EQ(norm.norm, gradient_norm(gradients.span(), one).norm);
  }
  EXPECT_EQ(gradient_norm(Values(5).span(), one).norm, 0);
}

TEST(GradientNorm, NamesTheFirstTensorThatIsNotFinite) {
  ThreadPool pool(2);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    Values good(10), second(kElements), third(10);
    second[kElements - 1] = bad;
    third[0] = bad;
    const Tensor all[] = {good.span()[0], second.span()[0], third.span()[0]};
    EXPECT_EQ(gradient_norm(all, pool).not_finite, 1);
  }
}

}  // namespace
}  // namespace m3
