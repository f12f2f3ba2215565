// Norms, as they are used on whole rows and on single heads.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/backend.h"

namespace m3::reference {

// x * rsqrt(mean(x^2) + eps) * (1 + weight), in double (spec: text-model §3.1).
void gemma_norm(const float* x, const float* weight, std::int64_t dim, float eps, double* out);

// 1 / sqrt(mean(x^2) + eps).
double inverse_rms(const float* x, std::int64_t dim, float eps);

// d_x of gemma_norm(), of which `inverse` is inverse_rms(x). d_x may be d_out.
void gemma_norm_gradient(const float* x, const float* weight, std::int64_t dim, double inverse,
                         const double* d_out, double* d_x);

// Norm and rotation of one head of row `row` in double; rounded when stored (spec: text-model
// §3.3, §3.4).
class HeadNormRope {
 public:
  // Heads are `dim` wide; without a weight they are only rotated.
  HeadNormRope(const HeadNorm& norm, std::int64_t dim);

  std::int64_t dim() const { return static_cast<std::int64_t>(scratch_.size()); }
  // x, out: one head [dim]; out may be x.
  void apply(const float* x, std::int64_t row, float* out);

 private:
  const HeadNorm& norm_;
  std::vector<double> scratch_;
};

}  // namespace m3::reference
