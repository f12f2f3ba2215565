#include "tensor/float_matrix.h"

namespace m3 {

Matrix f32_matrix(const Tensor& values) {
  Matrix matrix;
  matrix.codec = &codec_of(Format::kF32);
  matrix.values = values;
  matrix.rows = values.dim(0);
  matrix.cols = values.dim(1);
  return matrix;
}

void decode_all(const Matrix& w, float* out) {
  for (std::int64_t row = 0; row < w.rows; ++row)
    w.codec->decode(w, row, 0, w.cols, out + row * w.cols);
}

}  // namespace m3
