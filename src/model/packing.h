// Weights in the backend's own layout (Backend::pack), made while a model is loaded.
#pragma once

#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "ops/backend.h"
#include "tensor/matrix.h"
#include "tensor/tensor.h"

namespace m3 {

// The weight of a linear layer, at its place.
struct PackableWeight {
  std::string name;
  Matrix* matrix;
};

// Packs those that the backend wants packed, one after the other, and sets their Matrix::packed.
// Returns the memory that holds them. `progress` counts bytes.
// Errors: the system has not that much memory left.
Result<Buffer> pack_weights(Backend& backend, const std::vector<PackableWeight>& weights,
                            const Progress& progress);

}  // namespace m3
