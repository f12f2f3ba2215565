#include <algorithm>

#include "backend/reference/dot.h"
#include "backend/reference/product.h"
#include "backend/reference/reference_backend.h"
#include "ops/arguments.h"

namespace m3::reference {
namespace {

// Multiplications of one task: enough that handing it to a thread costs less than doing it.
constexpr std::int64_t kTaskProducts = 1 << 16;

// A x of every input, [inputs, rank].
std::vector<double> compress(const LowRank& addend, std::span<const float* const> inputs) {
  std::vector<double> compressed;
  for (const float* x : inputs)
    for (std::int64_t j = 0; j < addend.a.dim(0); ++j)
      compressed.push_back(dot(addend.a.row<float>(j), x, addend.a.dim(1)));
  return compressed;
}

// scale * Σ_j B[n, j] compressed[j].
double expand(const LowRank& addend, std::int64_t n, const double* compressed) {
  double sum = 0;
  for (std::int64_t j = 0; j < addend.b.dim(1); ++j)
    sum += addend.b.row<float>(n)[j] * compressed[j];
  return addend.scale * sum;
}

}  // namespace

void product(ThreadPool& pool, const Linear& linear, std::span<const float* const> inputs,
             float* out) {
  if (inputs.empty()) return;
  const Matrix& w = linear.weight;
  const LowRank* addend = linear.addend;
  const std::vector<double> compressed = addend ? compress(*addend, inputs) : std::vector<double>{};
  const std::int64_t products = std::max<std::int64_t>(1, w.cols * std::ssize(inputs));
  const std::int64_t outputs = std::max<std::int64_t>(1, kTaskProducts / products);
  pool.parallel_for(w.rows, outputs, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> weights(static_cast<std::size_t>(w.cols));
    for (std::int64_t n = begin; n < end; ++n) {
      w.codec->decode(w, n, 0, w.cols, weights.data());
      for (std::size_t r = 0; r < inputs.size(); ++r) {
        double sum = dot(weights.data(), inputs[r], w.cols);
        if (addend) sum += expand(*addend, n, compressed.data() + r * addend->a.dim(0));
        out[static_cast<std::int64_t>(r) * w.rows + n] = static_cast<float>(sum);
      }
    }
  });
}

std::vector<const float*> row_pointers(const Tensor& x) {
  std::vector<const float*> pointers;
  for (std::int64_t row = 0; row < x.dim(0); ++row) pointers.push_back(x.row<float>(row));
  return pointers;
}

void ReferenceBackend::linear(const Tensor& x, std::span<const LinearOutput> outputs) {
  expect_rank("linear: x", x, 2);
  expect_gates("linear: up", outputs);
  const std::vector<const float*> inputs = row_pointers(x);
  for (const LinearOutput& output : outputs) {
    expect_linear("linear: weight", *output.linear, x.dim(1));
    expect_tensor("linear: out", output.out, DType::kF32, {x.dim(0), output.linear->weight.rows});
    product(pool_, *output.linear, inputs, output.out.as<float>());
  }
  apply_gates(outputs);
}

}  // namespace m3::reference
