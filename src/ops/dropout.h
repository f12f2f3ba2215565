// Linear layers whose addend reads its input through dropout, made of other ops: y = W x + scale *
// B A drop(x). Training does this alone, so that no backend's products need to know of it.
#pragma once

#include <span>

#include "ops/backend.h"
#include "ops/gradients.h"

namespace m3 {

// backend.linear(), dropping what each output's addend asks for. The backend has derivatives.
void dropped_linear(Backend& backend, const Tensor& x, std::span<const LinearOutput> outputs);

// The derivative of that: GradientOps::linear() otherwise. d_x is not x.
void dropped_linear_gradient(Backend& backend, const Tensor& x,
                             std::span<const LinearGradient> layers, const Tensor& d_x);

// Whether one of them drops anything.
bool drops(std::span<const LinearOutput> outputs);

}  // namespace m3
