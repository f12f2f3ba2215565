// Attention of the vision tower (spec: vision §6.1, §6.2).
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/dot.h"
#include "backend/reference/reference_backend.h"
#include "backend/reference/reference_gradients.h"
#include "ops/arguments.h"

namespace m3::reference {
namespace {

// One head of the rows [first, last), which attend to each other.
struct SegmentHead {
  const Tensor& q;
  const Tensor& k;
  const Tensor& v;
  std::int64_t first, last;
  std::int64_t lane;  // where the head begins in a row
  std::int64_t dim;
  float scale;

  // What the row attends to, [last - first].
  void probabilities(std::int64_t row, std::vector<double>& p) const {
    p.resize(static_cast<std::size_t>(last - first));
    double largest = -std::numeric_limits<double>::infinity();
    for (std::int64_t t = first; t < last; ++t) {
      const double score = scale * dot(q.row<float>(row) + lane, k.row<float>(t) + lane, dim);
      p[static_cast<std::size_t>(t - first)] = score;
      largest = std::max(largest, score);
    }
    double sum = 0;
    for (double& x : p) sum += x = std::exp(x - largest);
    for (double& x : p) x /= sum;
  }

  void attend(std::int64_t row, std::vector<double>& p, std::vector<double>& mixed,
              float* out) const {
    probabilities(row, p);
    mixed.assign(static_cast<std::size_t>(dim), 0);
    for (std::int64_t t = first; t < last; ++t) {
      const double weight = p[static_cast<std::size_t>(t - first)];
      for (std::int64_t i = 0; i < dim; ++i)
        mixed[static_cast<std::size_t>(i)] += weight * v.row<float>(t)[lane + i];
    }
    for (std::int64_t i = 0; i < dim; ++i)
      out[lane + i] = static_cast<float>(mixed[static_cast<std::size_t>(i)]);
  }
};

}  // namespace

void ReferenceBackend::segment_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                         const Tensor& segments, std::int64_t dim, float scale,
                                         const Tensor& out) {
  const std::int64_t count = expect_segments(q, k, v, segments, dim, out);
  const std::int32_t* offsets = segments.as<std::int32_t>();
  for (std::int64_t s = 0; s < count; ++s) {
    const std::int64_t first = offsets[s], last = offsets[s + 1];
    pool_.parallel_for(last - first, 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> p, mixed;
      for (std::int64_t row = first + begin; row < first + end; ++row)
        for (std::int64_t lane = 0; lane < q.dim(1); lane += dim)
          SegmentHead{q, k, v, first, last, lane, dim, scale}.attend(row, p, mixed,
                                                                     out.row<float>(row));
    });
  }
}

void ReferenceGradients::segment_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                           const Tensor& segments, std::int64_t dim, float scale,
                                           const Tensor& out, const Tensor& d_out,
                                           const Tensor& d_q, const Tensor& d_k,
                                           const Tensor& d_v) {
  const std::int64_t count = expect_segments(q, k, v, segments, dim, out);
  for (const Tensor& other : {d_out, d_q, d_k, d_v})
    expect_tensor("segment_attention gradient", other, DType::kF32, {q.dim(0), q.dim(1)});
  const std::int32_t* offsets = segments.as<std::int32_t>();
  const std::int64_t heads = q.dim(1) / dim;
  pool_.parallel_for(count * heads, 1, [&](std::int64_t task, std::int64_t) {
    const std::int64_t first = offsets[task / heads], last = offsets[task / heads + 1];
    const std::int64_t lane = task % heads * dim;
    const SegmentHead head{q, k, v, first, last, lane, dim, scale};
    std::vector<double> d_keys(static_cast<std::size_t>((last - first) * dim), 0.0);
    std::vector<double> d_values(d_keys.size(), 0.0), d_query, p;
    for (std::int64_t row = first; row < last; ++row) {
      const float *query = q.row<float>(row) + lane, *d = d_out.row<float>(row) + lane;
      const double delta = dot(d, out.row<float>(row) + lane, dim);
      head.probabilities(row, p);
      d_query.assign(static_cast<std::size_t>(dim), 0.0);
      for (std::int64_t t = first; t < last; ++t) {
        const double probability = p[static_cast<std::size_t>(t - first)];
        const float *key = k.row<float>(t) + lane, *value = v.row<float>(t) + lane;
        const double d_score = scale * probability * (dot(d, value, dim) - delta);
        for (std::int64_t i = 0; i < dim; ++i) {
          const auto at = static_cast<std::size_t>((t - first) * dim + i);
          d_query[static_cast<std::size_t>(i)] += d_score * key[i];
          d_keys[at] += d_score * query[i];
          d_values[at] += probability * d[i];
        }
      }
      for (std::int64_t i = 0; i < dim; ++i)
        d_q.row<float>(row)[lane + i] = static_cast<float>(d_query[static_cast<std::size_t>(i)]);
    }
    for (std::size_t at = 0; at < d_keys.size(); ++at) {
      const std::int64_t row = first + static_cast<std::int64_t>(at) / dim;
      const std::int64_t column = lane + static_cast<std::int64_t>(at) % dim;
      d_k.row<float>(row)[column] = static_cast<float>(d_keys[at]);
      d_v.row<float>(row)[column] = static_cast<float>(d_values[at]);
    }
  });
}

}  // namespace m3::reference
