// Matrices of any format as float32.
#pragma once

#include "tensor/matrix.h"

namespace m3 {

// `values` [rows, cols] F32 as a matrix.
Matrix f32_matrix(const Tensor& values);

// All of w, row-major, into out[0..rows * cols).
void decode_all(const Matrix& w, float* out);

}  // namespace m3
