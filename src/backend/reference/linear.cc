#include <algorithm>

#include "backend/reference/dot.h"
#include "backend/reference/product.h"
#include "backend/reference/reference_backend.h"
#include "backend/reference/reference_gradients.h"
#include "ops/arguments.h"

namespace m3::reference {
namespace {

// Multiplications of one task: enough that handing it to a thread costs less than doing it.
constexpr std::int64_t kTaskProducts = 1 << 16;

// A x, [rank].
std::vector<double> compress(const LowRank& addend, const float* x) {
  std::vector<double> compressed;
  for (std::int64_t j = 0; j < addend.a.dim(0); ++j)
    compressed.push_back(dot(addend.a.row<float>(j), x, addend.a.dim(1)));
  return compressed;
}

// What a row adds; null: nothing.
const LowRank* addend_of(const Linear& linear, const std::int32_t* adapters, std::size_t row) {
  if (linear.addends.empty() || adapters == nullptr || adapters[row] < 0) return linear.addend;
  return linear.addends[static_cast<std::size_t>(adapters[row])];
}

// A row's addend, and what it gives behind A.
struct RowAddend {
  const LowRank* addend;
  std::vector<double> compressed;  // [rank]
};

std::vector<RowAddend> compress(const Linear& linear, const std::int32_t* adapters,
                                std::span<const float* const> inputs) {
  std::vector<RowAddend> rows(inputs.size(), RowAddend{nullptr, {}});
  for (std::size_t r = 0; r < inputs.size(); ++r)
    if (const LowRank* addend = addend_of(linear, adapters, r))
      rows[r] = {addend, compress(*addend, inputs[r])};
  return rows;
}

// sum += factor * x.
void add_scaled(double factor, const float* x, std::span<double> sum) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += factor * x[i];
}

// scale * d_out B, [rank].
std::vector<double> through_b(const LowRank& addend, const float* d_out) {
  std::vector<double> result(static_cast<std::size_t>(addend.b.dim(1)));
  for (std::int64_t n = 0; n < addend.b.dim(0); ++n)
    add_scaled(addend.scale * double{d_out[n]}, addend.b.row<float>(n), result);
  return result;
}

// scale * Σ_j B[n, j] compressed[j].
double expand(const LowRank& addend, std::int64_t n, const std::vector<double>& compressed) {
  double sum = 0;
  for (std::size_t j = 0; j < compressed.size(); ++j)
    sum += addend.b.row<float>(n)[j] * compressed[j];
  return addend.scale * sum;
}

std::vector<const float*> pointers_into(const std::vector<float>& rows, std::int64_t dim) {
  std::vector<const float*> pointers;
  for (std::size_t at = 0; at < rows.size(); at += static_cast<std::size_t>(dim))
    pointers.push_back(rows.data() + at);
  return pointers;
}

}  // namespace

void product(ThreadPool& pool, const Linear& linear, std::span<const float* const> inputs,
             float* out, const std::int32_t* adapters) {
  if (inputs.empty()) return;
  const Matrix& w = linear.weight;
  const std::vector<RowAddend> addends = compress(linear, adapters, inputs);
  const std::int64_t products = std::max<std::int64_t>(1, w.cols * std::ssize(inputs));
  const std::int64_t outputs = std::max<std::int64_t>(1, kTaskProducts / products);
  pool.parallel_for(w.rows, outputs, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> weights(static_cast<std::size_t>(w.cols));
    for (std::int64_t n = begin; n < end; ++n) {
      w.codec->decode(w, n, 0, w.cols, weights.data());
      for (std::size_t r = 0; r < inputs.size(); ++r) {
        double sum = dot(weights.data(), inputs[r], w.cols);
        if (const auto& [addend, compressed] = addends[r]; addend != nullptr)
          sum += expand(*addend, n, compressed);
        out[static_cast<std::int64_t>(r) * w.rows + n] = static_cast<float>(sum);
      }
    }
  });
}

void input_gradient(ThreadPool& pool, std::span<const BackwardLayer> layers, std::int64_t cols,
                    float* d_x) {
  constexpr std::int64_t kRows = 8;  // of a task: every row of W is decoded once for them
  const std::int64_t rows = layers.empty() ? 0 : std::ssize(layers[0].d_out);
  pool.parallel_for(rows, kRows, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> weights(static_cast<std::size_t>(cols));
    std::vector<double> sums(static_cast<std::size_t>((end - begin) * cols), 0.0);
    const auto sum_of = [&](std::int64_t row) {
      return std::span(sums).subspan(static_cast<std::size_t>((row - begin) * cols),
                                     static_cast<std::size_t>(cols));
    };
    for (const auto& [linear, d_out] : layers) {
      const Matrix& w = linear->weight;
      for (std::int64_t n = 0; n < w.rows; ++n) {
        w.codec->decode(w, n, 0, cols, weights.data());
        for (std::int64_t row = begin; row < end; ++row)
          add_scaled(d_out[static_cast<std::size_t>(row)][n], weights.data(), sum_of(row));
      }
      if (linear->addend == nullptr) continue;
      for (std::int64_t row = begin; row < end; ++row) {
        const auto d = through_b(*linear->addend, d_out[static_cast<std::size_t>(row)]);
        for (std::int64_t j = 0; j < std::ssize(d); ++j)
          add_scaled(d[static_cast<std::size_t>(j)], linear->addend->a.row<float>(j), sum_of(row));
      }
    }
    for (std::size_t i = 0; i < sums.size(); ++i)
      d_x[begin * cols + static_cast<std::int64_t>(i)] = static_cast<float>(sums[i]);
  });
}

void weight_gradient(ThreadPool& pool, std::span<const float* const> d_out,
                     std::span<const float* const> x, const Tensor& d_w) {
  pool.parallel_for(d_w.dim(0), 1, [&](std::int64_t n, std::int64_t) {
    std::vector<double> sums(static_cast<std::size_t>(d_w.dim(1)), 0.0);
    for (std::size_t r = 0; r < x.size(); ++r) add_scaled(d_out[r][n], x[r], sums);
    for (std::size_t i = 0; i < sums.size(); ++i)
      d_w.row<float>(n)[i] += static_cast<float>(sums[i]);
  });
}

void low_rank_gradient(ThreadPool& pool, const LowRank& addend, std::span<const float* const> d_out,
                       std::span<const float* const> x, const Tensor& d_a, const Tensor& d_b) {
  const std::int64_t rank = addend.a.dim(0);
  expect_tensor("gradient: d_a", d_a, DType::kF32, {rank, addend.a.dim(1)});
  expect_tensor("gradient: d_b", d_b, DType::kF32, {addend.b.dim(0), rank});
  std::vector<float> inner, d_inner;
  for (const float* row : x)
    for (double u : compress(addend, row)) inner.push_back(static_cast<float>(addend.scale * u));
  for (const float* d : d_out)
    for (double u : through_b(addend, d)) d_inner.push_back(static_cast<float>(u));
  weight_gradient(pool, d_out, pointers_into(inner, rank), d_b);
  weight_gradient(pool, pointers_into(d_inner, rank), x, d_a);
}

std::vector<const float*> row_pointers(const Tensor& x) {
  std::vector<const float*> pointers;
  for (std::int64_t row = 0; row < x.dim(0); ++row) pointers.push_back(x.row<float>(row));
  return pointers;
}

void ReferenceBackend::linear(const Tensor& x, std::span<const LinearOutput> outputs,
                              const Tensor& adapters) {
  expect_rank("linear: x", x, 2);
  expect_gates("linear: up", outputs);
  const std::vector<const float*> inputs = row_pointers(x);
  for (const LinearOutput& output : outputs) {
    expect_linear("linear: weight", *output.linear, x.dim(1));
    expect_tensor("linear: out", output.out, DType::kF32, {x.dim(0), output.linear->weight.rows});
    const std::int32_t* of_rows =
        expect_adapters("linear: adapters", adapters, x.dim(0), *output.linear);
    product(pool_, *output.linear, inputs, output.out.as<float>(), of_rows);
  }
  apply_gates(outputs);
}

void ReferenceGradients::linear(const Tensor& x, std::span<const LinearGradient> layers,
                                const Tensor& d_x) {
  expect_rank("linear gradient: x", x, 2);
  const std::int64_t rows = x.dim(0), cols = x.dim(1);
  const std::vector<const float*> inputs = row_pointers(x);
  std::vector<std::vector<const float*>> d_outs;
  std::vector<BackwardLayer> through;
  for (const LinearGradient& layer : layers) {
    const Matrix& w = layer.linear->weight;
    expect_linear("linear gradient: weight", *layer.linear, cols);
    expect_tensor("linear gradient: d_out", layer.d_out, DType::kF32, {rows, w.rows});
    d_outs.push_back(row_pointers(layer.d_out));
  }
  for (std::size_t i = 0; i < layers.size(); ++i) {
    through.push_back({layers[i].linear, d_outs[i]});
    if (layers[i].d_weight) {
      expect_tensor("linear gradient: d_weight", layers[i].d_weight, DType::kF32,
                    {layers[i].linear->weight.rows, cols});
      weight_gradient(pool_, d_outs[i], inputs, layers[i].d_weight);
    }
    if (layers[i].d_a)
      low_rank_gradient(pool_, *layers[i].linear->addend, d_outs[i], inputs, layers[i].d_a,
                        layers[i].d_b);
  }
  if (!d_x) return;
  expect_tensor("linear gradient: d_x", d_x, DType::kF32, {rows, cols});
  input_gradient(pool_, through, cols, d_x.as<float>());
}

}  // namespace m3::reference
