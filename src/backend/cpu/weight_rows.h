// Matrices as kernels read them.
#pragma once

#include "backend/cpu/kernels.h"
#include "tensor/matrix.h"

namespace m3::cpu {

WeightFormat format_of(const Matrix& w);

// All rows of w, as they are stored.
WeightRows stored_rows(const Matrix& w);

// Rows [begin, ...) of w, each of k columns.
WeightRows rows_from(const WeightRows& w, std::int64_t begin, std::int64_t k);

}  // namespace m3::cpu
