// What a linear layer is: a stored weight and, where someone fine-tuned it, a low-rank addend.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/matrix.h"
#include "tensor/tensor.h"

namespace m3 {

// Some elements are 0, the others 1 / (1 - rate) times what they were. Which ones is a function of
// the key, row and column.
struct Dropout {
  float rate = 0;
  std::uint64_t key = 0;
};

// scale * B A, added to a weight W [N, K]. Both factors in float32.
struct LowRank {
  Tensor a;  // [rank, K] F32
  Tensor b;  // [N, rank] F32
  float scale = 1;
  // Of what A reads, while it is trained; null: none. Ops do not look at it: ops/dropout.h does.
  const Dropout* dropout = nullptr;
};

// y = W x (+ scale * B (A x)).
struct Linear {
  Matrix weight;                    // [N, K]
  const LowRank* addend = nullptr;  // of every row; null: none
  // Instead of it: those of several adapters, by number, null where one has none. A row adds that
  // of the adapter that it names (Backend::linear()).
  std::span<const LowRank* const> addends = {};
};

// SwiGLU-OAI (spec: text-model §3.7).
struct SwiGlu {
  float alpha = 1.702f;
  float limit = 7;  // <= 0: no clamping
  float beta = 1;
};

// One of several linears that read the same input.
struct LinearOutput {
  const Linear* linear = nullptr;
  Tensor out;  // [rows, N] F32
  // Not null: a gate, whose up is the next output, of the same shape. out becomes swiglu(gate, up);
  // the up's own out is left undefined.
  const SwiGlu* swiglu = nullptr;
  // Of a gate: where the product goes instead, of out's shape. Then both outs keep what they are.
  Tensor product = {};

  Tensor activated() const { return product ? product : out; }
};

// The same linear of every expert: experts[e] is [N, K], all of one shape and format.
struct GroupedOutput {
  std::span<const Linear> experts;
  Tensor out;                      // [dispatched rows, N] F32
  const SwiGlu* swiglu = nullptr;  // as in LinearOutput
  Tensor product = {};             // the same

  Tensor activated() const { return product ? product : out; }
};

// Linears of another input that run beside the experts: the shared expert.
struct Beside {
  Tensor x;  // [rows, K]; without outputs: none
  std::span<const LinearOutput> outputs;
};

}  // namespace m3
