// Several tensors in one buffer, and one buffer under several shapes.
#pragma once

#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace m3 {

// A tensor to be placed, its type and its shape.
struct Placement {
  Tensor* tensor;
  DType dtype;
  std::vector<std::int64_t> shape;
};

// What lay_out() allocates for them.
std::int64_t bytes_of(std::span<const Placement> placements);

// Allocates one buffer for all and points the tensors into it, each at a multiple of 64 bytes.
Buffer lay_out(std::span<const Placement> placements);

// Gives each tensor, from where it begins, the shape of its placement, which is no larger than that
// it was laid out with.
void narrow(std::span<const Placement> placements);

// The first rows * cols elements of a buffer that is at least so large, under that shape.
Tensor shaped(const Tensor& buffer, std::int64_t rows, std::int64_t cols);

}  // namespace m3
