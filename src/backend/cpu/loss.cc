// The loss, limited by exp.
#include <algorithm>

#include "backend/cpu/cpu_gradients.h"
#include "ops/arguments.h"

namespace m3::cpu {

void CpuGradients::cross_entropy(const Tensor& logits, const Tensor& labels, float scale,
                                 const Tensor& losses) {
  expect_cross_entropy(logits, labels, losses);
  const std::int64_t rows = logits.dim(0), vocab = logits.dim(1);
  for_each_task(pool_, rows, [&](std::int64_t row) {
    float* z = logits.row<float>(row);
    const std::int32_t label = labels.as<std::int32_t>()[row];
    if (label == kNotScored) {
      std::fill_n(z, vocab, 0.0f);
      losses.as<float>()[row] = 0;
      return;
    }
    M3_CHECK(label >= 0 && label < vocab, "cross_entropy: label {} of {}", label, vocab);
    const float log_sum = kernels_.log_sum_exp(z, vocab);
    losses.as<float>()[row] = log_sum - z[label];
    for (std::int64_t i = 0; i < vocab; ++i) z[i] -= log_sum;
    kernels_.exp(z, vocab, z);
    z[label] -= 1;
    kernels_.scale_add(z, scale, nullptr, vocab, z);
  });
}

}  // namespace m3::cpu
