// Attention of the vision tower (spec: vision §6.1, §6.2).
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/reference/dot.h"
#include "backend/reference/reference_backend.h"
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

  void attend(std::int64_t row, std::vector<double>& p, std::vector<double>& mixed,
              float* out) const {
    p.resize(static_cast<std::size_t>(last - first));
    double largest = -std::numeric_limits<double>::infinity();
    for (std::int64_t t = first; t < last; ++t) {
      const double score = scale * dot(q.row<float>(row) + lane, k.row<float>(t) + lane, dim);
      p[static_cast<std::size_t>(t - first)] = score;
      largest = std::max(largest, score);
    }
    double sum = 0;
    for (double& x : p) sum += x = std::exp(x - largest);
    mixed.assign(static_cast<std::size_t>(dim), 0);
    for (std::int64_t t = first; t < last; ++t) {
      const double weight = p[static_cast<std::size_t>(t - first)] / sum;
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

}  // namespace m3::reference
