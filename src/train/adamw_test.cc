#include "train/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tensor/numeric.h"

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

TEST(AdamW, HasTheSameBitsInBfloat16ForAnyNumberOfThreads) {
  const AdamWOptions o{.moments = DType::kBF16};
  EXPECT_EQ(after_three_steps(o, 1, 1), after_three_steps(o, 3, 1));
  const auto exact = after_three_steps({}, 1, 1), rounded = after_three_steps(o, 1, 1);
  double largest = 0;
  for (std::size_t i = 0; i < exact.size(); ++i)
    largest = std::max(largest, std::abs(double{exact[i]} - rounded[i]));
  // Three steps of 0.01 at most, whose moments are wrong by less than a hundredth.
  EXPECT_GT(largest, 0);
  EXPECT_LT(largest, 3 * 0.01 * 0.02);
}

// A β2 of 0.999 changes the second moment by less than bfloat16's unit. It must follow all the
// same, up and down.
TEST(AdamW, MomentsInBfloat16DoNotStall) {
  constexpr std::int64_t kCount = 512;
  ThreadPool pool(2);
  Values weights(kCount), gradients(kCount);
  const std::vector<WeightSpec> specs = {spec(kCount)};
  auto adam = AdamW::create(specs, {.beta2 = 0.999, .moments = DType::kBF16});
  ASSERT_TRUE(adam);
  const auto mean_after = [&](int steps, float gradient) {
    for (std::int64_t i = 0; i < kCount; ++i) gradients[i] = gradient;
    for (int step = 0; step < steps; ++step)
      adam->step(weights.span(), gradients.span(), 0, 1, pool);
    double sum = 0;
    for (std::int64_t i = 0; i < kCount; ++i)
      sum += to_float(adam->second_moments()[0].as<BF16>()[i]);
    return sum / kCount;
  };
  EXPECT_NEAR(mean_after(4000, 1), 1 - std::pow(0.999, 4000), 0.02);
  EXPECT_NEAR(mean_after(4000, 0), std::pow(0.999, 4000), 0.002);
}

// A long way down a bowl whose axes are of very different lengths.
TEST(AdamW, ConvergesWithMomentsInBfloat16) {
  constexpr std::int64_t kCount = 64;
  for (const DType moments : {DType::kF32, DType::kBF16}) {
    ThreadPool pool(1);
    Values weights(kCount), gradients(kCount);
    const std::vector<WeightSpec> specs = {spec(kCount)};
    auto adam = AdamW::create(specs, {.beta2 = 0.999, .moments = moments});
    ASSERT_TRUE(adam);
    constexpr int kSteps = 6000;
    double loss = 0;
    for (int step = 0; step <= kSteps; ++step) {
      loss = 0;
      for (std::int64_t i = 0; i < kCount; ++i) {
        const double stiffness = std::pow(10.0, static_cast<double>(i % 5) - 2);
        const double off = double{weights[i]} - weight_at(i);
        gradients[i] = static_cast<float>(stiffness * off);
        loss += 0.5 * stiffness * off * off;
      }
      const double rate = 0.01 * (1 - static_cast<double>(step) / (kSteps + 1));
      adam->step(weights.span(), gradients.span(), rate, 1, pool);
    }
    EXPECT_LT(loss, 1e-6) << dtype_name(moments);
  }
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
