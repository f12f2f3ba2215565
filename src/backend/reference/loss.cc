// What training minimises (spec: training §2.7).
#include <algorithm>
#include <cmath>

#include "backend/reference/reference_gradients.h"
#include "ops/arguments.h"

namespace m3::reference {

void ReferenceGradients::cross_entropy(const Tensor& logits, const Tensor& labels, float scale,
                                       const Tensor& losses) {
  expect_cross_entropy(logits, labels, losses);
  const std::int64_t rows = logits.dim(0), vocab = logits.dim(1);
  pool_.parallel_for(rows, 1, [&](std::int64_t row, std::int64_t) {
    float* z = logits.row<float>(row);
    const std::int32_t label = labels.as<std::int32_t>()[row];
    if (label == kNotScored) {
      std::fill_n(z, vocab, 0.0f);
      losses.as<float>()[row] = 0;
      return;
    }
    M3_CHECK(label >= 0 && label < vocab, "cross_entropy: label {} of {}", label, vocab);
    const double largest = *std::max_element(z, z + vocab);
    double sum = 0;
    for (std::int64_t i = 0; i < vocab; ++i) sum += std::exp(z[i] - largest);
    losses.as<float>()[row] = static_cast<float>(largest + std::log(sum) - z[label]);
    for (std::int64_t i = 0; i < vocab; ++i)
      z[i] = static_cast<float>(scale * (std::exp(z[i] - largest) / sum - (i == label ? 1 : 0)));
  });
}

}  // namespace m3::reference
